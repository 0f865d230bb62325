"""SCAN-PhysFed: what travels, and the term that keeps protocols apart."""

import pytest
import torch

from fedm2ct.federation.methods import scanphysfed
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.model.prompt import hyperfed_condition
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def build(weight=1e-4):
    return scanphysfed.build(tiny.setup(method={"scanphysfed": {"weight": weight}}))


def test_encoder_and_hypernetwork_travel_and_the_decoder_stays():
    halves = build()
    start = halves.server.initial_shared()
    parts = {".".join(name.split(".")[2:4]) for name in start}
    assert parts == {"network.first", "network.down", "network.encode", "prompt.layers"}
    kept = halves.clients["A"].private_state()
    assert "model.shared.body.network.last.weight" in kept
    assert halves.clients["A"].fit(1, start).shared.keys() == start.keys()


def test_the_others_are_the_other_sites_protocols():
    halves = build()
    for name, other in (("A", "B"), ("B", "A")):
        expected = hyperfed_condition(tiny.PROTOCOLS[other])
        assert torch.equal(halves.clients[name].others, expected[None])


def test_the_loss_by_hand():
    """Codes (1, 0) and (3, 4): cosine 0.6; its weight is 0.5."""
    client = build(0.5).clients["A"]
    trainer, model = client.trainer, client.trainer.model
    prompt = model.shared.body.prompt
    codes = {False: torch.tensor([1.0, 0.0]), True: torch.tensor([-3.0, 4.0])}
    prompt.code = lambda condition: codes[torch.equal(condition, client.others[0])]
    sinogram, truth, analytical = trainer.train_data.batch(torch.arange(2))
    result = model(sinogram, analytical)
    trainer.train_round = lambda _, loss: loss(result, truth)
    plain = supervised_loss(tiny.setup().distance)(result, truth)
    total = client.train(1, {})
    assert (total - plain).item() == pytest.approx(0.5 * 0.6, rel=1e-5)


def test_the_term_drives_the_codes_apart():
    alike = []
    for weight in (0.0, 1e3):
        halves = build(weight)
        client, shared = halves.clients["A"], halves.server.initial_shared()
        for round_index in (1, 2, 3):
            shared = client.fit(round_index, shared).shared
        model = halves.trainers["A"].model
        code = model.shared.body.prompt.code
        codes = code(model.condition), code(client.others[0])
        alike.append(abs(torch.nn.functional.cosine_similarity(*codes, dim=0).item()))
    assert alike[1] < alike[0]


def test_a_site_alone_has_none_to_keep_apart_from():
    setup = tiny.setup()
    halves = scanphysfed.build(type(setup)(setup.config, setup.tasks[:1], setup.seed))
    client = halves.clients["A"]
    assert client.fit(1, halves.server.initial_shared()).metrics["loss"] > 0
