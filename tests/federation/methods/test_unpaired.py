"""Sites without normal-dose images, under every method."""

from dataclasses import replace

import pytest
import torch

from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.unpaired_client import ReceivingClient, SelfTaughtClient
from fedm2ct.federation.run import run_method
from fedm2ct.learning.unpaired_trainer import UnpairedTrainer
from tests import tiny

from .reach import fingerprints, reachable_arrays

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
SELF_TAUGHT = {"local", "fedm2ct"}
EVERY = pytest.mark.parametrize("method", METHODS)


def setup(**changes):
    return tiny.setup(unpaired=("A",), **{"hybrid": {"loss": ["thinning", "teacher"]}, **changes})


def federate(halves, folder, rounds=2):
    """Run through the engine; return the events."""
    events = []
    run_method(
        halves.server,
        halves.clients,
        rounds,
        folder,
        resume=False,
        seed=3,
        fingerprint="config",
        on_event=events.append,
    )
    return events


@EVERY
def test_every_method_runs(method, tmp_path):
    halves = METHODS[method](setup())
    events = federate(halves, tmp_path)
    assert not [e for e in events if e["event"] in ("dropped", "failed", "warning")]
    trainer = halves.trainers["A"]
    if method != "local_public":  # that site has pairs, public ones
        assert isinstance(trainer, UnpairedTrainer)
    assert trainer.best  # it has a model at the end
    if method not in ("pooled", "pooled_plain"):
        client = halves.clients["A"]
        assert isinstance(client, SelfTaughtClient) == (method in SELF_TAUGHT)
        own = [e for e in events if e["event"] == "round" and e["site"] == "A"]
        assert len(own) == 2
        if isinstance(client, ReceivingClient):
            assert all(e["samples"] == 0 for e in own)
            assert all(e["held_out_misfit"] > 0 for e in own)


@EVERY
def test_no_truth_of_the_site_can_be_reached(method):
    """Not that there is one: it is made here only to be looked for."""
    whole = tiny.task("A")
    built = METHODS[method](setup())
    reached = set()
    for half in (built.server, *built.clients.values()):
        for array in reachable_arrays(half):
            reached |= fingerprints(array)
    for data in (whole.train, whole.validation):
        assert not fingerprints(data.truth.numpy()) & reached
        assert not fingerprints(data.clean.numpy()) & reached
    if method not in ("pooled", "pooled_plain", "local_public"):
        assert fingerprints(whole.train.projections.numpy()) & reached  # the search would find it


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"local", "local_public"}))
def test_the_others_learn_as_if_the_site_were_not_there(method, tmp_path):
    """Where only what is averaged counts; the protocol is known to the server in any case."""
    if method in ("fedm2ct", "fedavg_cross", "sc3fl", "scanphysfed", "pooled", "pooled_plain"):
        pytest.skip("its server or its sites know the other's protocol")
    if method == "fednova":
        pytest.skip("its number of steps is shared out")
    both = METHODS[method](setup())
    alone = tiny.setup()
    alone = METHODS[method](type(alone)(alone.config, [alone.tasks[1]], 3, alone.public))
    federate(both, tmp_path / "both")
    federate(alone, tmp_path / "alone")
    a, b = (halves.trainers["B"].model.state_dict() for halves in (both, alone))
    assert tiny.same(dict(a), dict(b))


@EVERY
def test_a_receiving_site_reconstructs_with_the_shared_network(method, tmp_path):
    if method in SELF_TAUGHT or method == "local_public":
        pytest.skip("its site trains")
    halves = METHODS[method](setup())
    federate(halves, tmp_path, rounds=1)
    model = halves.trainers["A"].model
    sinogram = tiny.task("A").validation.projections
    with torch.no_grad():
        result = model(sinogram)
    assert torch.equal(result.final, result.shared)
    untrained = METHODS[method](setup()).trainers["A"].model
    for part in ("sinogram", "backprojection"):
        states = (dict(getattr(m, part).state_dict()) for m in (model, untrained))
        assert tiny.same(*states)


def test_a_self_taught_site_leaves_the_shared_network_as_received():
    halves = METHODS["fedm2ct"](setup(hybrid={"loss": ["split-views", "teacher"]}))
    shared = {n: t + 0.01 for n, t in halves.server.initial_shared().items()}
    trainer = halves.trainers["A"]
    before = {n: t.clone() for n, t in trainer.model.private.state_dict().items()}
    upload = halves.clients["A"].fit(1, shared)
    assert upload == Upload("A", {}, 0, upload.metrics) and upload.abstains
    assert tiny.same(trainer.model.shared_state(), shared)
    assert not tiny.same(dict(trainer.model.private.state_dict()), before)
    assert {"loss", "held_out_misfit", "val_public_psnr_db"} <= upload.metrics.keys()
    assert "val_psnr_db" not in upload.metrics


def test_without_a_loss_the_site_only_receives():
    halves = METHODS["fedm2ct"](setup(hybrid={"loss": []}))
    assert type(halves.clients["A"]) is ReceivingClient
    assert float(halves.trainers["A"].model.private_weight) == 0.0


def test_without_exchange_there_is_no_teacher():
    halves = METHODS["fedm2ct"](setup(hybrid={"loss": ["teacher"]}, fedm2ct={"exchange": False}))
    assert type(halves.clients["A"]) is ReceivingClient


def test_the_teacher_waits_as_the_mutual_terms_do():
    """In the first round of a ramp it has no weight: nothing is trained towards it."""
    states = []
    for loss in (["thinning"], ["thinning", "teacher"]):
        halves = METHODS["fedm2ct"](setup(hybrid={"loss": loss}, fedm2ct={"ramp_rounds": 2}))
        shared = {n: t + 0.01 for n, t in halves.server.initial_shared().items()}
        for round_index in (1, 2):
            halves.clients["A"].fit(round_index, shared)
            states.append(halves.trainers["A"].model.private_state())
    assert tiny.same(states[0], states[2])
    assert not tiny.same(states[1], states[3])


def test_a_teacher_alone_waits_for_the_second_round():
    halves = METHODS["fedm2ct"](setup(hybrid={"loss": ["teacher"]}, fedm2ct={"ramp_rounds": 2}))
    client, shared = halves.clients["A"], halves.server.initial_shared()
    assert "loss" not in client.fit(1, shared).metrics
    assert "loss" in client.fit(2, shared).metrics


def test_the_metamodel_learns_the_site_s_protocol_all_the_same():
    halves = METHODS["fedm2ct"](setup())
    assert set(halves.server.metamodel.source.training(1)) == {"A", "B"}


def test_contributed_pairs_come_from_sites_that_have_them():
    halves = METHODS["fedm2ct"](setup(meta={"source": "contributed"}))
    assert set(halves.server.metamodel.source.training(1)) == {"B"}


def test_the_site_trains_on_public_pairs_when_asked_to():
    asked = METHODS["fedm2ct"](setup(hybrid={"loss": ["public"]})).trainers["A"]
    assert len(asked.public_train) == 2  # four public slices, of which 0.4 are held out
    assert METHODS["fedm2ct"](setup()).trainers["A"].public_train is None


def test_by_default_it_trains_on_public_pairs_and_with_the_teacher():
    halves = METHODS["fedm2ct"](setup(hybrid={}))
    assert len(halves.trainers["A"].public_train) == 2
    assert isinstance(halves.clients["A"], SelfTaughtClient)
    nothing_public = setup(hybrid={}, meta={"source": "none"}, fedm2ct={"ramp_rounds": 2})
    client = METHODS["fedm2ct"](replace(nothing_public, public=[])).clients["A"]
    shared = client.trainer.model.shared_state()
    assert ["loss" in client.fit(k, shared).metrics for k in (1, 2)] == [False, True]
    assert type(METHODS["local"](setup(hybrid={})).clients["A"]) is ReceivingClient


def test_sites_that_take_part_are_counted_without_it():
    scaffold = METHODS["scaffold"](setup())
    assert scaffold.server.sites == 1
    assert METHODS["feddyn"](setup()).server.sites == 1
    assert METHODS["fednova"](setup()).server.most_steps == 2
