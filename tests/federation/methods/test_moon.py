"""MOON: the contrast is with the download and the round before; the first round has none."""

import pytest
import torch

from fedm2ct.federation.methods import fedper, moon
from fedm2ct.federation.methods.setup import without_prefix
from fedm2ct.learning.contrast import frozen_copy, model_contrast, represented
from fedm2ct.learning.mutual import supervised_loss
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def two_rounds(build, **options):
    """Return what site A uploads after two rounds of its own, from a moved start in the second."""
    halves = build(tiny.setup(method={"moon": options}, training={"local_steps": 4}))
    client, start = halves.clients["A"], halves.server.initial_shared()
    first = client.fit(1, start).shared
    second = client.fit(2, {n: t + 0.01 for n, t in first.items()}).shared
    return first, second, client


def test_the_first_round_is_fedper_s_and_the_second_is_not():
    plain, contrasted = two_rounds(fedper.build), two_rounds(moon.build, mu=5.0)
    assert tiny.same(plain[0], contrasted[0])
    assert not tiny.same(plain[1], contrasted[1])


def test_without_weight_it_is_fedper():
    assert tiny.same(two_rounds(fedper.build)[1], two_rounds(moon.build, mu=0.0)[1])


def test_what_is_contrasted_is_the_download_and_the_end_of_the_round_before():
    first, _, client = two_rounds(moon.build)
    kept, trainer = client.memory, client.trainer
    received = {n: t - 0.02 for n, t in first.items()}
    trainer.model.load_shared(received)
    with torch.no_grad():
        trainer.model.shared.body.first.weight.add_(0.1)  # in the middle of a round
    sinogram, truth, analytical = trainer.train_data.batch(torch.arange(3))
    trainer.train_round = lambda _, loss: loss(trainer.model(sinogram, analytical), truth)
    contrasted = client.train(3, received)

    result, network = trainer.model(sinogram, analytical), trainer.model.shared
    z = []
    for state in (trainer.model.shared_state(), received, kept):
        other = frozen_copy(network, without_prefix(state))
        with represented(other.network) as representation:
            other(result.initial, trainer.model.condition)
        z.append(representation.of_batch)
    plain = supervised_loss(tiny.setup().distance)(result, truth)
    expected = plain + 1.0 * model_contrast(*z, 0.5)
    assert contrasted.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_last_round_s_network_is_kept_at_the_site():
    first, second, client = two_rounds(moon.build)
    kept = client.private_state()
    assert tiny.same({n: kept[f"memory.{n}"] for n in second}, second)
    assert not tiny.same(first, second)
