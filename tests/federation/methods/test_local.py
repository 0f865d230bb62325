import pytest
import torch

from fedm2ct.federation.methods import local
from fedm2ct.federation.methods.local import SilentServer
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_nothing_is_exchanged():
    halves = local.build(tiny.setup())
    assert halves.server.initial_shared() == {}
    uploads = [client.fit(1, {}) for client in halves.clients.values()]
    assert [u.shared for u in uploads] == [{}, {}]
    assert halves.server.aggregate(1, {}, uploads).shared == {}
    assert isinstance(halves.server, SilentServer) and halves.server.state() == {}


def test_the_whole_model_is_private_and_kept():
    halves = local.build(tiny.setup())
    trainer = halves.trainers["A"]
    assert set(trainer.model.declare().values()) == {"private"}
    kept = halves.clients["A"].private_state()
    model = trainer.model.state_dict()
    assert tiny.same({n: kept[f"model.{n}"] for n in model}, model)


def test_sites_know_nothing_of_each_other():
    """A site's result does not depend on who else takes part."""
    setup = tiny.setup()
    alone = type(setup)(setup.config, setup.tasks[:1], setup.seed)
    together, single = local.build(setup), local.build(alone)
    together.clients["B"].fit(1, {})
    for halves in (together, single):
        halves.clients["A"].fit(1, {})
    states = [h.clients["A"].private_state() for h in (together, single)]
    assert tiny.same(*states)


def test_it_is_validated_after_local_training():
    halves = local.build(tiny.setup())
    client, trainer = halves.clients["A"], halves.trainers["A"]
    metrics = client.fit(1, {}).metrics
    assert metrics["val_psnr_db"] == trainer.best_psnr
    assert torch.equal(trainer.best["private.last.bias"], trainer.model.private.last.bias)
    assert client.finish({}) == {"best_val_psnr_db": trainer.best_psnr}
