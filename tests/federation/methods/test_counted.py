"""What a server keeps of its sites' states is theirs, whichever upload it refuses."""

import pytest
import torch

from fedm2ct.federation.methods import feddyn, scaffold
from fedm2ct.federation.methods.counted import Before
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import load_tensors
from fedm2ct.learning.trainer import part_of
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
ROUNDS, REFUSED = 3, 2


class Stopped(Exception):
    """A run that is broken off."""


def run(build, folder, *, stop_after=None):
    """Run a method whose server refuses A's upload of one round; return its clients and server."""
    halves, dropped, done = build(tiny.setup()), [], []

    def on_event(event):
        if event["event"] == "dropped":
            dropped.append((event["site"], event["round"]))
        if event["event"] == "checkpoint":
            done.append(event["round"])
            if event["round"] == stop_after:
                raise Stopped

    def fault(upload):
        running = done[-1] + 1 if done else ROUNDS if started else 1
        return "not liked" if (upload.site, running) == ("A", REFUSED) else None

    started = any(folder.glob("checkpoints/*.safetensors"))
    halves.server.fault = fault
    run_method(
        halves.server,
        halves.clients,
        ROUNDS,
        folder,
        seed=3,
        resume=started,
        fingerprint="config",
        on_event=on_event,
    )
    return halves, dropped


def of_server(build, folder):
    """Return what the server keeps beside the parameters after the last round."""
    tensors, _ = load_tensors(sorted(folder.glob("checkpoints/*.safetensors"))[-1])
    if build is feddyn.build:
        return part_of(tensors, "server/")
    return part_of(tensors, f"shared/{scaffold.CONTROL}")


@pytest.mark.parametrize("build", [scaffold.build, feddyn.build])
@pytest.mark.parametrize("broken_off", [False, True])
def test_the_server_keeps_the_mean_of_what_the_sites_keep(build, broken_off, tmp_path):
    if broken_off:  # between the refusal and the round that must hear of it
        with pytest.raises(Stopped):
            run(build, tmp_path, stop_after=REFUSED)
    halves, dropped = run(build, tmp_path)
    assert dropped == ([] if broken_off else [("A", REFUSED)])
    assert all(client.before.trained == ROUNDS for client in halves.clients.values())
    kept = [client.memory for client in halves.clients.values()]
    for name, own in of_server(build, tmp_path).items():
        mean = torch.stack([memory[name].double() for memory in kept]).mean(0)
        assert float(mean.abs().max()) > 0, name
        assert torch.allclose(own.double(), mean, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize(("counted", "taken_back"), [(4, True), (5, False), (6, False)])
def test_a_state_older_than_what_counted_is_kept(counted, taken_back):
    """A file of round 5 put back where round 6 counted: round 5 counted as well."""
    client = feddyn.build(tiny.setup()).clients["A"]
    client.before, client.memory = Before(5, {}), {"now": torch.ones(1)}
    client.heard(counted)
    assert (client.memory == {}) == taken_back
