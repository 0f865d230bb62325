"""However a run ends, resuming it gives the bits of a run that never ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedm2ct
from fedm2ct.errors import FedM2CTError

from ..federation.toy import (
    ROUNDS,
    SITES,
    ToyClient,
    ToyServer,
    run_toy,
    same_state,
    toy_clients,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed: result, private states, log without times."""
    folder = tmp_path_factory.mktemp("whole")
    server = ToyServer()
    result, clients, _ = run_toy(folder, server=server)
    return result, clients, server, log_of(folder)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same_end(whole, folder, **options):
    result, clients, server, log = whole
    again = ToyServer()
    resumed, resumed_clients, events = run_toy(folder, resume=True, server=again, **options)
    assert same_state(resumed.shared, result.shared)
    assert same_state(again.state(), server.state())
    for site in SITES:
        assert same_state(resumed_clients[site].private_state(), clients[site].private_state())
        assert same_state(resumed_clients[site].finished, result.shared)
    assert log_of(folder) == log
    assert not list(folder.rglob("*.writing-*"))
    return resumed, events


class Stopped(ToyClient):
    """Presses Ctrl-C in a round, before or after its training."""

    def __init__(self, site, round_index, late):
        super().__init__(site)
        self.round_index, self.late = round_index, late

    def fit(self, round_index, shared):
        if round_index == self.round_index and not self.late:
            raise KeyboardInterrupt
        upload = super().fit(round_index, shared)
        if round_index == self.round_index:
            raise KeyboardInterrupt
        return upload


@pytest.mark.parametrize("round_index", range(1, ROUNDS + 1))
@pytest.mark.parametrize(("site", "late"), [("A", False), ("B", True), ("C", True)])
def test_ctrl_c_within_a_round(whole, tmp_path, round_index, site, late):
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, clients=toy_clients(**{site: Stopped(site, round_index, late)}))
    resumed, _ = assert_same_end(whole, tmp_path)
    assert resumed.resumed_from == round_index - 1


@pytest.mark.parametrize("round_index", range(1, ROUNDS + 1))
def test_stop_after_any_round(whole, tmp_path, round_index):
    def stop(event):
        if event["event"] == "checkpoint" and event["round"] == round_index:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, on_event=stop)
    resumed, events = assert_same_end(whole, tmp_path)
    assert resumed.resumed_from == round_index
    assert [e["round"] for e in events if e["event"] == "checkpoint"] == list(
        range(round_index + 1, ROUNDS + 1)
    )


N_WRITES = 4 * (ROUNDS + 1)  # three sites and the server, round 0 included


@pytest.mark.parametrize("write", range(N_WRITES))
def test_crash_at_any_write(whole, tmp_path, monkeypatch, write):
    """Stops as dead as a power cut: just before a finished file gets its name."""
    replace, count = os.replace, [0]

    def failing(source, target):
        if Path(target).suffix == ".safetensors":
            if count[0] == write:
                raise KeyboardInterrupt
            count[0] += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path)
    assert_same_end(whole, tmp_path)


def test_a_run_stopped_again_and_again(whole, tmp_path):
    for round_index in (1, 2, 2, 3, 4):
        clients = toy_clients(B=Stopped("B", round_index, True))
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path, clients=clients, resume=True)
    assert_same_end(whole, tmp_path)


def test_finished_run_can_be_resumed(whole, tmp_path):
    run_toy(tmp_path)
    resumed, _ = assert_same_end(whole, tmp_path)
    assert resumed.resumed_from == ROUNDS


def test_failed_end_can_be_resumed(whole, tmp_path):
    class Deaf(ToyClient):
        def finish(self, shared):
            raise OSError("no")

    with pytest.raises(FedM2CTError, match=r"final parameters \(B: OSError"):
        run_toy(tmp_path, clients=toy_clients(B=Deaf("B")))
    assert_same_end(whole, tmp_path)


def test_log_cut_off_in_mid_line_is_mended(whole, tmp_path):
    run_toy(tmp_path, rounds=2)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 3, "site": "A", "lo')
    assert_same_end(whole, tmp_path)


CHILD = """
import sys, time
from pathlib import Path
from tests.federation.toy import ToyClient, run_toy, toy_clients

class Slow(ToyClient):
    def fit(self, round_index, shared):
        upload = super().fit(round_index, shared)
        if round_index == 3:
            Path(sys.argv[1], "marker").touch()
            time.sleep(60)
        return upload

run_toy(Path(sys.argv[1]) / "unit", clients=toy_clients(B=Slow("B")))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_process(whole, tmp_path, number):
    paths = [Path(fedm2ct.__file__).parents[1], Path(__file__).parents[2]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], env=env, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "marker").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == -number, said
    resumed, _ = assert_same_end(whole, tmp_path / "unit")
    assert resumed.resumed_from == 2
