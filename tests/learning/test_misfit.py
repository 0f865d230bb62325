"""Distances from measured counts, and the parts of a measurement that are kept back."""

import math

import pytest
import torch

from fedm2ct.data.simulate import simulate
from fedm2ct.learning.misfit import (
    Misfit,
    counts_of,
    hold_out_views,
    ramp,
    subset_of_views,
    thin_counts,
)
from fedm2ct.learning.seeds import generator
from fedm2ct.physics.protocols import get_protocol
from tests import tiny


def one_ray(photons=100.0, electronic=5.0, model_error=0.1):
    """A misfit without an image: of line integrals handed in."""
    protocol = tiny.PROTOCOLS["A"].__class__(
        "one", tiny.FAN.geometry, tiny.GRID, photons, electronic
    )
    return Misfit(protocol, model_error)


def test_misfit_by_hand():
    """lambda = 100 e^-ln2 = 50; v = (50 + 25) / 2500 + 0.01 = 0.04; (60/50 - 1)^2 / v = 1."""
    misfit = one_ray()
    pull, weight = misfit.pulls(torch.tensor([math.log(2)]), torch.tensor([60.0]))
    assert float(pull) == pytest.approx(-0.2, rel=1e-5)
    assert float(weight) == pytest.approx(25.0, rel=1e-5)
    misfit.project = lambda image: torch.full((1, 1, 1, 1), math.log(2))
    misfit.ramp = ramp(1)
    assert float(misfit(torch.zeros(1), torch.full((1, 1, 1, 1), 60.0))) == pytest.approx(1.0)


def test_the_ramp_passes_frequencies_by_their_height():
    """Up to a factor, and 1 on the diagonal; no image error goes without weight."""
    filtering = ramp(64)
    assert torch.equal(filtering.diagonal(), torch.ones(64, dtype=torch.float64))
    bins = torch.arange(64, dtype=torch.float64)
    heights = [
        float(wave @ filtering @ wave / (wave @ wave))
        for wave in (torch.sin(2 * math.pi * k / 64 * (bins + 0.5)) for k in (4, 8, 16))
    ]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.05)
    assert heights[2] == pytest.approx(4 * heights[0], rel=0.05)
    assert float(torch.linalg.eigvalsh(filtering).min()) > 0


def test_misfit_of_two_bins_by_hand():
    """R = [[1, -4/pi^2], [-4/pi^2, 1]]; both residuals 1: the mean is 1 - 4/pi^2."""
    misfit = one_ray()
    misfit.ramp = ramp(2)
    misfit.project = lambda image: torch.full((1, 1, 1, 2), math.log(2))
    value = misfit(torch.zeros(1), torch.full((1, 1, 1, 2), 60.0))
    assert float(value) == pytest.approx(1 - 4 / math.pi**2)


def test_of_a_share_of_the_dose_by_hand():
    """A quarter: lambda = 12.5, v = (12.5 + 6.25) / 156.25 + 0.01 = 0.13."""
    pull, weight = one_ray().pulls(torch.tensor([math.log(2)]), torch.tensor([25.0]), 0.25)
    assert float(pull) == pytest.approx(-1.0, rel=1e-5)
    assert float(weight) == pytest.approx(1 / 0.13, rel=1e-5)


@pytest.mark.parametrize("expected", [2.0, 20.0, 2000.0])
def test_its_gradient_has_no_bias_at_any_dose_and_its_value_is_one(expected):
    """At the truth; a squared difference of logarithms has a bias, so the test can see one."""
    misfit = one_ray(photons=expected, electronic=0.0, model_error=0.0)
    counts = torch.poisson(torch.full((400_000,), expected), generator=generator(1, "counts"))
    integrals = torch.zeros_like(counts)
    pull, weight = misfit.pulls(integrals, counts)
    error = float((pull * weight).std()) / math.sqrt(len(counts))
    assert abs(float((pull * weight).mean())) < 5 * error
    assert float((pull.square() * weight).mean()) == pytest.approx(1.0, rel=0.02)
    if expected == 2.0:
        logarithm = -torch.log(counts.clamp(min=1) / expected)
        assert abs(float((logarithm * weight).mean())) > 50 * error


def test_gradient_is_the_quasi_score_s():
    protocol = tiny.PROTOCOLS["B"]
    misfit, data = Misfit(protocol), tiny.paired(tiny.PROTOCOLS["B"], 3, 2)
    image = (0.9 * data.truth).requires_grad_()
    counts = counts_of(data.projections, protocol.photons)
    misfit(image, counts).sum().backward()
    integrals = misfit.project(image.detach())
    pull, weight = misfit.pulls(integrals, counts)
    rays = integrals[0].numel()
    scale = weight.sqrt()
    expected = misfit.projector.adjoint(-2 * misfit.filtered(pull * scale) * scale / rays) * 0.0192
    torch.testing.assert_close(image.grad, expected, rtol=1e-4, atol=1e-6)


def test_only_the_chosen_views_count():
    protocol, data = tiny.PROTOCOLS["A"], tiny.paired(tiny.PROTOCOLS["A"], 3, 2)
    misfit, counts = Misfit(protocol), counts_of(data.projections, tiny.FAN.photons)
    chosen = slice(3, None, 8)
    spoilt = torch.full_like(counts, math.nan)
    spoilt[:, :, chosen] = counts[:, :, chosen]
    value = misfit(data.truth, spoilt, chosen)
    assert value.shape == (2,) and bool(torch.isfinite(value).all())
    assert not torch.equal(value, misfit(data.truth, counts))


@pytest.mark.parametrize("name", ["demo-low-mas", "demo-sparse", "demo-limited", "demo-parallel"])
def test_the_truth_explains_a_real_protocol_s_measurement(name):
    """That is what the model error is for: the truth on the grid is not the object."""
    protocol = get_protocol(name)
    data = simulate(tiny.scan("body", 5, 2), range(2), protocol, generator(2, name))
    misfit = Misfit(protocol)
    value = misfit(data.truth, counts_of(data.projections, protocol.photons))
    assert float(value.max()) < 1.5
    noise = 0.15 * torch.empty_like(data.truth).normal_(generator=generator(3, name))
    noisy = misfit(data.truth + noise, counts_of(data.projections, protocol.photons))
    assert float(noisy.min()) > 2 * float(value.max())  # 150 HU


def test_held_out_views_leave_no_trace():
    sinogram = torch.rand(2, 1, 10, 5, generator=generator(4, "rays"))
    for first, fold in ((0, 2), (1, 4), (3, 3)):
        held = list(range(first, 10, fold))
        seen = hold_out_views(sinogram, first, fold)
        other = sinogram.clone()
        other[:, :, held] = math.nan
        assert torch.equal(hold_out_views(other, first, fold), seen)
        kept = [k for k in range(10) if k not in held]
        assert torch.equal(seen[:, :, kept], sinogram[:, :, kept])
    seen = hold_out_views(sinogram, 0, 3)
    assert torch.equal(seen[:, :, 0], sinogram[:, :, 1])  # the end has one neighbour
    assert torch.equal(seen[:, :, 3], (sinogram[:, :, 2] + sinogram[:, :, 4]) / 2)
    assert torch.equal(seen[:, :, 9], sinogram[:, :, 8])


@pytest.mark.parametrize("protocol", tiny.PROTOCOLS.values(), ids=tiny.PROTOCOLS)
def test_a_subset_of_views_is_what_those_views_measure(protocol):
    whole = protocol.geometry
    part = subset_of_views(whole, 1, 4)
    assert part.angles_rad == whole.angles_rad[1::4]
    assert (part.n_bins, part.detector_pitch_mm) == (whole.n_bins, whole.detector_pitch_mm)


def test_thinned_counts_add_up_and_have_the_share_that_was_asked_for():
    protocol = tiny.PROTOCOLS["A"]
    quiet = protocol.__class__("quiet", protocol.geometry, protocol.grid, 1000.0, 0.0)
    sinogram = torch.full((200_000,), math.log(10))
    first, second = thin_counts(sinogram, quiet, 0.7, generator(5, "thin"))
    of_first = 700 * torch.exp(-first)
    torch.testing.assert_close(of_first + second, torch.full_like(second, 100.0))
    assert float(second.mean()) == pytest.approx(30.0, rel=0.005)
    assert float(second.var()) == pytest.approx(21.0, rel=0.02)  # 100 x 0.3 x 0.7


@pytest.mark.parametrize("electronic", [0.0, 8.0])
def test_parts_of_a_thinned_measurement_are_uncorrelated(electronic):
    source, n = generator(6, "counts"), 400_000
    counts = torch.poisson(torch.full((n,), 100.0), generator=source)
    counts += electronic * torch.empty(n).normal_(generator=source)
    made = tiny.PROTOCOLS["A"]
    protocol = made.__class__("x", made.geometry, made.grid, 1000.0, electronic)
    first, second = thin_counts(-torch.log(counts / 1000), protocol, 0.8, source)
    of_first = 800 * torch.exp(-first)
    correlation = float(torch.corrcoef(torch.stack([of_first, second]))[0, 1])
    assert abs(correlation) < 5 / math.sqrt(n)
    assert float(of_first.mean()) == pytest.approx(80.0, rel=2e-3)
    assert float(second.var()) == pytest.approx(0.2 * (100 + electronic**2), rel=0.02)
