"""Ditto: two models at a site; the personal one is held near the download and is the product."""

import pytest
import torch

from fedm2ct.federation.methods import ditto
from fedm2ct.learning.trainer import part_of
from tests import tiny

from .gradients import close, watch_steps

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def build(strength=1.0, **training):
    return ditto.build(
        tiny.setup(method={"ditto": {"lambda_personal": strength}}, training=training)
    )


def distance(state, other):
    return sum(float((state[n] - other[n]).square().sum()) for n in state) ** 0.5


def personal(halves, name="A"):
    network = halves.trainers[name].model.private
    return {n: t.detach().clone() for n, t in network.state_dict().items()}


def test_the_personal_model_starts_as_the_global_one_and_stays():
    halves = build()
    start = halves.server.initial_shared()
    assert tiny.same(personal(halves), part_of(start, "shared.body."))
    sent = halves.clients["A"].fit(1, start).shared
    assert sent.keys() == start.keys()
    reached = personal(halves)
    assert not tiny.same(reached, part_of(start, "shared.body."))
    halves.clients["A"].finish({n: t + 1 for n, t in start.items()})
    assert tiny.same(personal(halves), reached)


def test_the_stronger_the_term_the_nearer_to_the_download():
    away = []
    for strength in (0.0, 10.0, 1000.0):
        halves = build(strength, local_steps=5)
        start = halves.server.initial_shared()
        halves.clients["A"].fit(1, start)
        away.append(distance(personal(halves), part_of(start, "shared.body.")))
    assert away[0] > away[1] > away[2] > 0


def test_the_term_pulls_to_this_round_s_download():
    """With an overwhelming term, the personal model follows a moved download."""
    left = []
    for strength in (0.0, 1e6):
        halves = build(strength, learning_rate=0.02, local_steps=40, rounds=1)
        start = halves.server.initial_shared()
        moved = {n: t + 0.2 for n, t in start.items()}
        before = distance(personal(halves), part_of(moved, "shared.body."))
        halves.clients["A"].fit(1, moved)
        left.append(distance(personal(halves), part_of(moved, "shared.body.")) / before)
    assert left[0] > 0.8 and left[1] < 0.4


def test_the_gradients_are_the_two_losses_own(monkeypatch):
    """grad F_k(w) for w; grad F_k(v) + lambda (v - w^t) for v: neither depends on the other."""
    halves = build(7.0)
    start = halves.server.initial_shared()
    anchor = part_of(start, "shared.body.")
    steps = watch_steps(monkeypatch, halves.trainers["A"])
    halves.clients["A"].fit(1, start)
    assert len(steps) == 2
    for step in steps:
        for name, given in step.given.items():
            part, _, inner = name.partition(".")
            term = 7.0 * (step.parameters[name] - anchor[inner]) if part == "private" else 0.0
            assert close(given, step.own[name] + term)


def test_the_product_is_the_personal_model():
    halves = build(learning_rate=0.02, local_steps=10)  # far enough for the two to differ
    client, trainer = halves.clients["A"], halves.trainers["A"]
    metrics = client.fit(1, halves.server.initial_shared()).metrics
    assert metrics["private_weight"] == 1.0
    assert metrics["val_psnr_db"] == metrics["val_private_psnr_db"]
    assert metrics["val_psnr_db"] != metrics["val_shared_psnr_db"]
    sinogram, _, analytical = trainer.validation_data.batch(torch.arange(2))
    result = trainer.model(sinogram, analytical)
    assert torch.equal(result.final, result.private)


def test_a_site_that_joins_personalises_the_federation_s_network():
    halves = ditto.build(tiny.setup())
    client, start = halves.clients["A"], halves.server.initial_shared()
    ended = {name: tensor + 1.0 for name, tensor in start.items()}
    client.join(ended)
    model = halves.trainers["A"].model
    assert tiny.same(model.shared_state(), ended)
    assert tiny.same(model.private.state_dict(), model.shared.network.state_dict())
