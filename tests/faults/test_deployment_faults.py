"""Processes of a deployment are killed; the run ends with the weights of one left in peace.

Minutes each: Flower takes a node for gone when it has not heard of it for a minute. Run by
``make faults``.
"""

import contextlib
import os
import signal

import pytest

from fedm2ct.deployment.processes import read_status
from fedm2ct.federation.runlog import RunLog
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.unit import train, unit_folder

from ..deployment.loopback import made, pids, start_up, up, wait_until
from ..deployment.test_deployment import (
    METHOD,
    SEED,
    assert_same_weights,
    config_in_one_place,
    shared_after,
)
from ..runs import start

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]
ROUNDS, STEPS = 4, 200


@pytest.fixture(scope="module")
def undisturbed(patients, tmp_path_factory, one_thread):
    """The shared weights after the last round of a run in this process."""
    root = tmp_path_factory.mktemp("undisturbed")
    federation = made(root, patients)
    config = config_in_one_place(federation, ROUNDS, STEPS)
    train(config, read_cohort(config), METHOD, SEED, root / "unit", False, lambda _: None)
    return shared_after(root / "unit", ROUNDS)


class Run:
    """``fedm2ct coordinator train`` in a process of its own."""

    def __init__(self, federation, out):
        self.federation, self.out = federation, out
        self.toml = federation.write_federation(METHOD, ROUNDS, STEPS)
        self.unit = unit_folder(out, METHOD, SEED)
        self.process = None

    def start(self, *options):
        folder = self.federation.coordinator.root
        self.process = start("coordinator", "train", folder, self.toml, "--out", self.out, *options)

    def events(self, kind="round"):
        return [e for e in RunLog(self.unit / "metrics.jsonl").read() if e["event"] == kind]

    def wait_for_round(self, number):
        def reached():
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[1])
            return any(e["round"] == number and e["site"] == "server" for e in self.events())

        wait_until(reached, 300, f"round {number} was not reached")

    def end(self):
        _, said = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def run(patients, tmp_path):
    """A deployment that is up, with a run that has done its first round."""
    federation = made(tmp_path, patients)
    with up(federation) as processes:
        made_run = Run(federation, tmp_path / "run")
        made_run.processes = processes
        made_run.start()
        made_run.wait_for_round(1)
        yield made_run
        if made_run.process.poll() is None:
            made_run.process.kill()
            made_run.process.communicate()


def kill(*numbers):
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def pid_of(folder, name):
    return read_status(folder.state / "services.json")["services"][name]["pid"]


def kill_all(process, folder):
    """Kill a supervisor and all that it runs, as a power cut does."""
    running = pids(folder)
    process.kill()
    process.wait()
    kill(*running)


def assert_site_missed_at_most_one_round(run, name):
    failed = run.events("failed")
    assert {e["site"] for e in failed} <= {name}
    assert len(failed) <= 1, failed
    rounds = {e["round"] for e in run.events() if e["site"] == name}
    assert ROUNDS in rounds


def test_a_killed_coordinator_is_resumed_from_its_checkpoint(run, undisturbed):
    folder = run.federation.coordinator
    kill_all(run.processes["coordinator"], folder)
    run.process.communicate(timeout=120)
    assert run.process.returncode == 1
    done = max(e["round"] for e in run.events())
    again = start_up("coordinator", folder.root)
    run.processes["coordinator"] = again
    try:
        run.start("--resume")
        said = run.end()
        assert f"goes on after round {done}" in said or f"goes on after round {done - 1}" in said
        assert_same_weights(shared_after(run.unit, ROUNDS), undisturbed)
        assert not run.events("failed")
    finally:
        kill_later = pids(folder)
        again.terminate()
        again.wait(60)
        kill(*kill_later)


def test_a_killed_executor_is_resumed(run, undisturbed):
    kill(pid_of(run.federation.coordinator, "executor"))
    run.process.communicate(timeout=300)
    assert run.process.returncode == 1
    run.start("--resume")
    run.end()
    assert_same_weights(shared_after(run.unit, ROUNDS), undisturbed)


def test_a_proxy_that_starts_again_is_not_noticed(run, undisturbed):
    kill(pid_of(run.federation.coordinator, "proxy"))
    run.end()
    assert not run.events("failed")
    assert_same_weights(shared_after(run.unit, ROUNDS), undisturbed)


def test_a_killed_worker_costs_its_site_a_round(run):
    kill(pid_of(run.federation.site("A"), "worker"))
    run.end()
    assert_site_missed_at_most_one_round(run, "A")


def test_a_killed_node_costs_its_site_a_round(run):
    kill(pid_of(run.federation.site("A"), "supernode"))
    run.end()
    assert_site_missed_at_most_one_round(run, "A")


def test_a_killed_site_comes_back_with_its_private_part(run):
    folder = run.federation.site("A")
    kill_all(run.processes["A"], folder)
    again = start_up("site", folder.root)
    try:
        run.end()
        assert_site_missed_at_most_one_round(run, "A")
        (own,) = folder.runs.glob(f"*/{METHOD}/seed-{SEED}/sites/A")
        assert (own / f"private-{ROUNDS:04d}.safetensors").exists()
    finally:
        again.terminate()
        again.wait(60)
