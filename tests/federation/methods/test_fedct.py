"""FedCT: the prompted image network travels with its encoder, the projection domain stays."""

import pytest
import torch

from fedm2ct.federation.methods import fedct, fedper
from fedm2ct.model.prompt import condition_vector
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
GAMMA_BETA = "shared.body.prompt.layers.2.weight"


def test_the_encoder_of_the_condition_travels_and_the_projection_domain_stays():
    halves = fedct.build(tiny.setup())
    start = halves.server.initial_shared()
    model = halves.trainers["A"].model
    assert start.keys() == {f"shared.{n}" for n, _ in model.shared.named_parameters()}
    assert GAMMA_BETA in start
    assert halves.clients["A"].fit(1, start).shared.keys() == start.keys()
    kept = {n for n, owner in model.declare().items() if owner == "private"}
    assert {n.split(".")[0] for n in kept} == {"sinogram", "backprojection", "private_weight"}
    assert model.private is None


def test_each_site_is_told_its_own_condition():
    halves = fedct.build(tiny.setup())
    for name, protocol in tiny.PROTOCOLS.items():
        assert torch.equal(halves.trainers[name].model.condition, condition_vector(protocol))


def test_a_round_averages_the_encoder_by_the_numbers_of_slices():
    halves = fedct.build(tiny.setup())
    shared = halves.server.initial_shared()
    uploads = [halves.clients[name].fit(1, shared) for name in ("A", "B")]
    a, b = (upload.shared[GAMMA_BETA] for upload in uploads)
    assert float(a.abs().max()) > 0 and not torch.equal(a, b)
    assert [upload.samples for upload in uploads] == [4, 6]
    merged = halves.server.aggregate(1, shared, uploads).shared[GAMMA_BETA]
    torch.testing.assert_close(merged, 0.4 * a + 0.6 * b)


def test_the_first_step_is_fedper_s_for_the_encoder_starts_by_changing_nothing():
    one_step = {"training": {"local_steps": 1, "rounds": 1}}
    prompted, plain = (build(tiny.setup(**one_step)) for build in (fedct.build, fedper.build))
    mine = prompted.clients["A"].fit(1, prompted.server.initial_shared()).shared
    theirs = plain.clients["A"].fit(1, plain.server.initial_shared()).shared
    for name, tensor in theirs.items():
        renamed = name.replace("shared.body.", "shared.body.network.")
        torch.testing.assert_close(mine[renamed], tensor)


def test_the_product_is_the_global_network():
    halves = fedct.build(tiny.setup())
    shared = halves.server.initial_shared()
    halves.clients["A"].fit(1, shared)
    assert tiny.same({n: halves.trainers["A"].best[n] for n in shared}, shared)
