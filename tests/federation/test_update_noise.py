"""Clipping and noise on an update, and what dp-accounting says of them."""

import math

import pytest
import torch

from fedm2ct.federation.accounting import slice_epsilon, update_epsilon
from fedm2ct.federation.update_noise import clip_and_noise, update_length


def draw():
    return torch.Generator().manual_seed(3)


UPDATE = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]]), "n": torch.tensor(9)}


def test_clipping_is_of_all_tensors_together():
    clipped = clip_and_noise(UPDATE, 1.0, 0.0, draw())
    assert clipped["a"].tolist() == pytest.approx([0.6, 0.0])
    assert clipped["b"].tolist() == [[pytest.approx(0.8)]]
    assert int(clipped["n"]) == 9


def test_a_short_update_is_left_as_it_is():
    same = clip_and_noise(UPDATE, 5.0, 0.0, draw())
    assert all(torch.equal(same[n], t) for n, t in UPDATE.items())


def test_noise_has_the_stated_deviation():
    noisy = clip_and_noise({"w": torch.zeros(200_000)}, 0.5, 3.0, draw())["w"]
    assert float(noisy.std()) == pytest.approx(1.5, rel=0.01)
    assert abs(float(noisy.mean())) < 0.02


def test_noise_does_not_depend_on_the_order_of_names():
    there = clip_and_noise(UPDATE, 1.0, 1.0, draw())
    back = clip_and_noise(dict(reversed(UPDATE.items())), 1.0, 1.0, draw())
    assert all(torch.equal(there[n], back[n]) for n in UPDATE)


def test_length_by_hand():
    assert update_length(UPDATE) == 5.0


def exact_delta(epsilon, sensitivity_over_sigma):
    """Delta of one Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    mu = sensitivity_over_sigma
    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("rounds", [1, 4])
def test_epsilon_bounds_the_exact_gaussian_curve_closely(rounds):
    """Rounds of one mechanism are one mechanism with the square root of their number less noise."""
    pytest.importorskip("dp_accounting")
    noise = 4.0
    epsilon = update_epsilon(noise, rounds, 1e-5)
    mu = 2 / noise * math.sqrt(rounds)  # clipped updates are at most two clipping lengths apart
    assert exact_delta(epsilon, mu) <= 1e-5
    assert exact_delta(0.8 * epsilon, mu) > 1e-5


def test_epsilon_grows_with_steps_and_falls_with_noise_and_sampling():
    pytest.importorskip("dp_accounting")
    base = slice_epsilon(1.0, 0.1, 100, 1e-5)
    assert slice_epsilon(1.0, 0.1, 200, 1e-5) > base
    assert slice_epsilon(2.0, 0.1, 100, 1e-5) < base
    assert slice_epsilon(1.0, 0.2, 100, 1e-5) > base


def test_no_noise_protects_nothing_and_no_round_spends_nothing():
    assert update_epsilon(0.0, 3, 1e-5) == math.inf
    assert slice_epsilon(0.0, 0.1, 3, 1e-5) == math.inf
    assert update_epsilon(1.0, 0, 1e-5) == slice_epsilon(1.0, 0.1, 0, 1e-5) == 0.0
