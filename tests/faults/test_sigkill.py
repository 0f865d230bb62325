"""SIGKILL in every phase of a round: resuming loses one round at most, and not a bit of the rest.

The faults are put into the code from here, in a process of its own, which forks from one that has
imported everything already.
"""

import json
import multiprocessing
import os
import signal

import pytest
import torch

from fedm2ct.federation import audit, checkpoint, client_app, coordinator, grid, site, strategy
from fedm2ct.federation.audit_check import check_unit
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import load_tensors

from .. import tiny
from ..federation.toy import ToyServer, run_toy, same_state, toy_clients

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
ROUND, ROUNDS = 2, 4


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(place, name, when):
    """Die before a function is called with arguments of which ``when`` is true."""
    original = getattr(place, name)

    def dying(*arguments, **options):
        if when(*arguments, **options):
            die()
        return original(*arguments, **options)

    setattr(place, name, dying)


def after(place, name, when):
    """Die after a function was called with arguments of which ``when`` is true."""
    original = getattr(place, name)

    def dying(*arguments, **options):
        result = original(*arguments, **options)
        if when(*arguments, **options):
            die()
        return result

    setattr(place, name, dying)


def half_written(place, name, when):
    """Write half of what was to be written under its own or a temporary name, then die."""

    original = getattr(place, name)

    def dying(path, data):
        if not when(path, data):
            return original(path, data)
        target = path if name == "append_durably" else path.with_name(f"{path.name}.writing-1")
        with target.open("ab") as stream:
            stream.write(data[: len(data) // 2])
            stream.flush()
            os.fsync(stream.fileno())
        die()

    setattr(place, name, dying)


def of_round(path, data):
    return path.name == f"round-{ROUND:04d}.safetensors"


def audited(path, data):
    return path.name == "audit.jsonl" and f'"round":{ROUND},'.encode() in data


PHASES = {
    "waiting: before anything is sent": lambda: before(
        strategy.MethodStrategy, "configure_train", lambda s, n, *_: n == ROUND
    ),
    "waiting: between two sites": lambda: before(
        grid.LocalGrid,
        "_exchange",
        lambda s, m, _: (s.sites[m.metadata.dst_node_id], m.metadata.group_id) == ("B", str(ROUND)),
    ),
    "training: a site begins": lambda: before(
        site.Site, "fit", lambda s, n, *_: (s.name, n) == ("B", ROUND)
    ),
    "training: a site has trained, and has not stored": lambda: before(
        site.PrivateStore, "save", lambda s, n, _: (s.site, n) == ("B", ROUND)
    ),
    "uploading: a site has stored, and has not sent": lambda: before(
        client_app,
        "reply_with_upload",
        lambda upload, receipt: (upload.site, receipt.round_index) == ("B", ROUND),
    ),
    "aggregating: before validation": lambda: before(
        strategy.MethodStrategy, "_read", lambda s, *_: s._expected.round_index == ROUND
    ),
    "aggregating: after the server's half": lambda: before(
        strategy, "check_aggregate", lambda n, *_: n == ROUND
    ),
    "checkpointing: logged, not audited": lambda: after(
        coordinator.RunLog, "append", lambda s, events: events[0]["round"] == ROUND
    ),
    "checkpointing: half an audit line": lambda: half_written(audit, "append_durably", audited),
    "checkpointing: audited, not stored": lambda: after(audit, "append_durably", audited),
    "checkpointing: half a checkpoint": lambda: half_written(
        checkpoint, "write_atomically", of_round
    ),
    "checkpointing: stored, older ones still there": lambda: after(
        checkpoint, "write_atomically", of_round
    ),
    "finishing: a site takes the final parameters": lambda: before(
        site.Site, "finish", lambda s, *_: s.name == "B"
    ),
}


def run_tiny(folder, resume=False):
    """Run FedM2CT itself; return what it ends with."""
    halves = METHODS["fedm2ct"](tiny.setup())
    result = run_method(
        halves.server, halves.clients, ROUNDS, folder, resume=resume, seed=3, fingerprint="c"
    )
    return result.resumed_from


def run_toy_here(folder, resume=False):
    """Run the toy method; return the round it went on from."""
    result, _, _ = run_toy(
        folder, resume=resume, rounds=ROUNDS, clients=toy_clients(), server=ToyServer()
    )
    return result.resumed_from


RUNS = {"toy": run_toy_here, "fedm2ct": run_tiny}


def killed(method, phase, folder):
    torch.set_num_threads(1)
    PHASES[phase]()
    RUNS[method](folder, resume=True)


def end_of(folder):
    """Return the last checkpoint and private states, and the log without times."""
    files = [folder / "checkpoints" / f"round-{ROUNDS:04d}.safetensors"]
    files += sorted(folder.glob(f"sites/*/private-{ROUNDS:04d}.safetensors"))
    states = {f"{p.parent.name}/{n}": t for p in files for n, t in load_tensors(p)[0].items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return states, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def context():
    """Processes that fork from one that has imported everything, and computed nothing."""
    made = multiprocessing.get_context("forkserver")
    # torch's optimisers import torch._dynamo when the first is made, which takes seconds
    made.set_forkserver_preload(["tests.faults.test_sigkill", "torch._dynamo"])
    return made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread):
    """Return what an undisturbed run of a method ends with."""
    done = {}

    def end(method):
        if method not in done:
            folder = tmp_path_factory.mktemp("undisturbed")
            RUNS[method](folder)
            done[method] = end_of(folder)
        return done[method]

    return end


def kill(context, method, phase, folder):
    child = context.Process(target=killed, args=(method, phase, folder))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def assert_same_end(undisturbed, method, folder):
    states, log = end_of(folder)
    expected, expected_log = undisturbed(method)
    assert same_state(states, expected)
    assert log == expected_log
    assert not list(folder.rglob("*.writing-*"))
    report = check_unit(folder)
    assert report.faults == () and report.notes == ()


METHOD = pytest.mark.parametrize(
    "method", ["toy", pytest.param("fedm2ct", marks=pytest.mark.faults)]
)


@METHOD
@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_a_phase(context, undisturbed, tmp_path, method, phase):
    kill(context, method, phase, tmp_path)
    assert check_unit(tmp_path).faults == ()  # the dead run itself is not suspicious
    reached = ROUNDS if phase.startswith("finishing") else ROUND
    assert RUNS[method](tmp_path, resume=True) in (reached - 1, reached)
    assert_same_end(undisturbed, method, tmp_path)


@METHOD
def test_killed_in_every_phase_one_after_the_other(context, undisturbed, tmp_path, method):
    for phase in PHASES:
        kill(context, method, phase, tmp_path)
        if phase.endswith("older ones still there"):
            break  # from here on the round is done
    RUNS[method](tmp_path, resume=True)
    assert_same_end(undisturbed, method, tmp_path)
