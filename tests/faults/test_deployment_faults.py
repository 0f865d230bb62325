"""Processes of a deployment are killed; the run ends with the weights of one left in peace.

Minutes each: Flower takes a node for gone when it has not heard of it for a minute. Run by
``make faults``.
"""

import signal
import time

import pytest

from fedm2ct.federation.audit_check import check_unit
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.unit import train

from ..deployment.loopback import made, pids, start_up, up
from ..deployment.test_deployment import (
    METHOD,
    SEED,
    assert_same_weights,
    config_in_one_place,
    shared_after,
)
from .deployed import ROUNDS, STEPS, kill, pid_of, running, started_again

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]


@pytest.fixture(scope="module")
def undisturbed(patients, tmp_path_factory, one_thread):
    """The shared weights after the last round of a run in this process."""
    root = tmp_path_factory.mktemp("undisturbed")
    federation = made(root, patients)
    config = config_in_one_place(federation, ROUNDS, STEPS)
    train(config, read_cohort(config), METHOD, SEED, root / "unit", False, lambda _: None)
    return shared_after(root / "unit", ROUNDS)


@pytest.fixture
def run(patients, tmp_path):
    """A deployment that is up, with a run that has done its first round."""
    federation = made(tmp_path, patients)
    with up(federation) as processes, running(federation, processes, tmp_path / "run") as made_run:
        made_run.wait_for_round(1)
        yield made_run


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
    assert ROUNDS in run.rounds_of(name)


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


def test_a_command_whose_connection_is_lost_is_resumed_at_once(run):
    time.sleep(3.0)  # the sites are training: their messages have come as a whole
    run.process.send_signal(signal.SIGHUP)
    run.process.communicate(timeout=60)
    assert run.process.returncode == 130
    run.start("--resume")
    run.end()
    assert_one_run(run)


def test_the_run_of_a_killed_command_has_no_second_one_beside_it(run):
    run.wait_for_round(2)
    run.process.kill()
    run.process.communicate()
    run.start("--resume")  # waits for the end of the first, which takes less than a minute
    run.end()
    assert_one_run(run)


def assert_one_run(run):
    assert not check_unit(run.unit).faults
    done = [e["round"] for e in run.events() if e["site"] == "server"]
    assert done == list(range(1, ROUNDS + 1))


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
    with started_again("site", folder):
        run.end()
        assert_site_missed_at_most_one_round(run, "A")
        assert (run.own_folder("A") / f"private-{ROUNDS:04d}.safetensors").exists()
