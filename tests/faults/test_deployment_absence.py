"""A site of a deployment hangs, is down for rounds, or comes late: real processes, real signals.

About two minutes each. Run by ``make faults``.
"""

import signal
import time

import pytest

from ..deployment.loopback import end, join_when_it_answers, made, up
from .deployed import pid_of, running, send, set_in, started_again

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]
ALLOWED_S = 30.0
IN_MID_ROUND_S = 1.5
MORE_THAN_ENOUGH = 60


def assert_goes_on_from(run, name, kept, back):
    """A site that is back in a round goes on from one of its own rounds, and stays."""
    run.wait_for_round(back + 1, name)
    assert run.rounds_of("B") >= set(range(1, back + 2))
    log = (run.federation.site(name).logs / "worker.log").read_text()
    found = [line for line in log.splitlines() if f"no state after round {back - 1}:" in line]
    if back - 1 not in kept:
        assert int(found[0].rpartition(" ")[2]) in kept
    stored = {path.name for path in run.own_folder(name).iterdir()}
    assert {f"private-{number:04d}.safetensors" for number in (back, back + 1)} <= stored


@pytest.mark.parametrize("service", ["worker", "supernode"])
def test_a_site_that_hangs_is_left_out_and_takes_part_again(patients, tmp_path, service):
    federation = made(tmp_path, patients)
    set_in(federation.coordinator.settings_file, round_timeout_s=ALLOWED_S)
    hung = federation.site("A")
    with (
        up(federation) as processes,
        running(federation, processes, tmp_path / "run", rounds=MORE_THAN_ENOUGH) as run,
    ):
        run.wait_for_round(1)
        time.sleep(IN_MID_ROUND_S)
        stopped, since = pid_of(hung, service), time.monotonic()
        send(signal.SIGSTOP, stopped)
        try:
            run.wait_for_round(2)
            assert time.monotonic() > since + ALLOWED_S - IN_MID_ROUND_S
        finally:
            send(signal.SIGCONT, stopped)
        back = run.wait_for_return("A", after=2)
        late = {(number, "A"): "busy with an earlier round" for number in range(3, back)}
        assert run.failures() == {(2, "A"): f"no answer within {ALLOWED_S:.0f} s", **late}
        assert_goes_on_from(run, "A", {2}, back)
        assert pid_of(hung, service) == stopped


def test_a_site_that_is_down_for_two_rounds_comes_back(patients, tmp_path):
    federation = made(tmp_path, patients)
    set_in(federation.coordinator.settings_file, round_timeout_s=ALLOWED_S)
    with (
        up(federation) as processes,
        running(federation, processes, tmp_path / "run", rounds=MORE_THAN_ENOUGH) as run,
    ):
        run.wait_for_round(1)
        time.sleep(IN_MID_ROUND_S)
        end(processes["A"])
        run.wait_for_round(3)
        with started_again("site", federation.site("A")):
            back = run.wait_for_return("A", after=3)
            assert {run.failures()[number, "A"] for number in range(3, back)} == {"not connected"}
            assert_goes_on_from(run, "A", {1, 2}, back)  # told to end, it may finish its round


def test_a_site_that_joins_late_takes_part_from_then_on(patients, tmp_path):
    federation = made(tmp_path, patients)
    set_in(federation.coordinator.settings_file, wait_for_sites_s=3.0)
    late = federation.site("A")
    with (
        up(federation, sites=("B",)) as processes,
        running(federation, processes, tmp_path / "run", rounds=MORE_THAN_ENOUGH) as run,
    ):
        run.wait_for_round(1)
        join_when_it_answers(federation, late)
        with started_again("site", late):
            back = run.wait_for_return("A", after=1)
            not_there = {(number, "A"): "not connected" for number in range(1, back)}
            assert run.failures() == not_there
            assert_goes_on_from(run, "A", {0}, back)
