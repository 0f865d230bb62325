"""FBP of exact sinograms, and the pieces it is made of."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedm2ct.physics.analytic import (
    cosine_weights,
    fbp,
    ramp_filter_matrix,
    redundancy_weights,
    view_bin_weights,
)
from fedm2ct.physics.geometry import (
    FanGeometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.operators import WeightedBackprojector
from fedm2ct.physics.phantoms import Ellipse, ellipse_image, ellipse_sinogram, water_disc
from fedm2ct.units import MU_WATER_PER_MM

GRID = ImageGrid(128, 128, 3.0)
RADIUS, CENTRE = 150.0, (10.0, -15.0)


def fan(detector, views=240, span_deg=360.0, start=0.3, bins=256, pitch=3.4, offset=0.0):
    angles = equispaced_angles(views, math.radians(span_deg), start)
    return FanGeometry(angles, bins, pitch, 595.0, 1085.6, detector, offset)


def parallel(views=240, span_deg=180.0, start=0.3, bins=200, offset=0.0):
    angles = equispaced_angles(views, math.radians(span_deg), start)
    return ParallelGeometry(angles, bins, 2.0, offset)


def shuffled(geometry):
    order = np.random.default_rng(0).permutation(geometry.n_views)
    turns = np.random.default_rng(1).integers(-2, 3, geometry.n_views) * 2 * math.pi
    return replace(geometry, angles_rad=tuple((geometry.angles + turns)[order].tolist()))


def jittered(geometry):
    step = 2 * math.pi / geometry.n_views
    noise = np.random.default_rng(2).uniform(-0.3, 0.3, geometry.n_views) * step
    return replace(geometry, angles_rad=tuple((geometry.angles + noise).tolist()))


FULL = {
    "parallel-180": parallel(),
    "parallel-360": parallel(span_deg=360),
    "parallel-360-quarter-bin": parallel(span_deg=360, offset=0.5),
    "parallel-360-half-detector": parallel(span_deg=360, bins=150, offset=40.0),
    "fan-flat": fan("flat"),
    "fan-curved": fan("curved"),
    "fan-flat-flying": replace(fan("flat"), source_angle_shift_rad=(2e-3, -2e-3) * 120),
    "fan-curved-flying": replace(fan("curved"), source_angle_shift_rad=(2e-3, -2e-3) * 120),
    "fan-flat-coarse": fan("flat", bins=184, pitch=4.5),
    "fan-curved-coarse": fan("curved", bins=184, pitch=4.5),
    "fan-flat-half-detector": fan("flat", views=360, bins=180, offset=90.0),
    "fan-curved-half-detector": fan("curved", views=360, bins=180, offset=-90.0),
    "fan-flat-any-order": shuffled(fan("flat")),
    "parallel-any-order": shuffled(parallel()),
}
SHORT = {
    "fan-flat-short": fan("flat", span_deg=225),
    "fan-curved-short": fan("curved", span_deg=230),
    "fan-flat-overscan": fan("flat", span_deg=300),
    "parallel-220": parallel(span_deg=220),
}


def water_error_hu(image):
    """Error in HU of the pixels well inside the disc."""
    x = (np.arange(128) - 63.5) * 3.0 - CENTRE[0]
    y = (63.5 - np.arange(128))[:, None] * 3.0 - CENTRE[1]
    inside = np.hypot(x, y) < RADIUS - 15.0
    return (image[0, 0].numpy()[inside] - 1.0) * 1000.0


@pytest.mark.parametrize("geometry", [*FULL.values(), *SHORT.values()], ids=[*FULL, *SHORT])
def test_water_is_zero_hu_in_full_and_short_scans(geometry):
    sinogram = ellipse_sinogram(water_disc(RADIUS, *CENTRE), geometry).float()
    error = water_error_hu(fbp(sinogram, geometry, GRID))
    assert abs(error.mean()) < 0.2
    assert abs(error).max() < 2.0


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_water_is_zero_hu_with_irregular_steps(detector):
    geometry = jittered(fan(detector, views=360))
    sinogram = ellipse_sinogram(water_disc(RADIUS, *CENTRE), geometry).float()
    error = water_error_hu(fbp(sinogram, geometry, GRID))
    assert abs(error.mean()) < 0.5
    assert abs(error).max() < 10.0


def test_hann_keeps_water_and_damps_noise():
    geometry = fan("flat")
    sinogram = ellipse_sinogram(water_disc(RADIUS, *CENTRE), geometry).float()
    assert abs(water_error_hu(fbp(sinogram, geometry, GRID, "hann"))).max() < 2.0
    noise = torch.randn(sinogram.shape, generator=torch.Generator().manual_seed(0))
    ramp, hann = (fbp(noise, geometry, GRID, w).std() for w in ("ramp", "hann"))
    assert hann < 0.6 * ramp


@pytest.mark.parametrize("geometry", [parallel(), fan("flat"), fan("curved")], ids=str)
def test_objects_come_out_in_place_and_with_their_contrast(geometry):
    phantom = [
        *water_disc(120.0),
        Ellipse(50.0, 40.0, 25.0, 15.0, 0.5, 0.3),
        Ellipse(-60.0, -30.0, 12.0, 12.0, 0.0, -0.5),
    ]
    image = fbp(ellipse_sinogram(phantom, geometry), geometry, GRID)
    truth = ellipse_image(phantom, GRID, 8)
    assert float((image - truth).square().mean().sqrt()) < 0.04
    column, row = round(63.5 + 50 / 3), round(63.5 - 40 / 3)
    assert float(image[0, 0, row, column]) == pytest.approx(1.3, abs=0.01)


def test_limited_angle_keeps_the_middle_of_a_disc():
    geometry = fan("curved", views=160, span_deg=140)
    sinogram = ellipse_sinogram(water_disc(RADIUS), geometry)
    middle = fbp(sinogram, geometry, GRID)[0, 0, 54:74, 54:74].mean()
    assert float(middle) == pytest.approx(1.0, abs=0.03)


def test_fbp_is_its_pieces():
    """What the learnable reconstruction starts from."""
    for geometry in (fan("curved", span_deg=230), fan("flat"), parallel()):
        sinogram = ellipse_sinogram(water_disc(RADIUS), geometry)
        weighted = sinogram * redundancy_weights(geometry) * cosine_weights(geometry)
        filtered = weighted @ ramp_filter_matrix(geometry, "hann")
        image = WeightedBackprojector(geometry, GRID)(view_bin_weights(geometry) * filtered)
        expected = fbp(sinogram, geometry, GRID, "hann")
        torch.testing.assert_close(image / MU_WATER_PER_MM, expected)


def test_redundancy_is_one_in_full_and_in_limited_scans():
    narrow = fan("curved", span_deg=140, bins=180)
    for geometry in (fan("flat"), narrow, parallel()):
        weights = redundancy_weights(geometry)
        assert weights.shape == geometry.shape
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_redundancy_of_conjugate_rays_sums_to_one():
    """On a parallel arc of 220 degrees, view i and view i + 180 degrees see the same lines."""
    geometry = parallel(views=220, span_deg=220)
    weights = redundancy_weights(geometry)[:, 0]
    torch.testing.assert_close(weights[:40] + weights[180:], torch.ones(40).double())
    torch.testing.assert_close(weights[40:180], torch.ones(140).double())


def test_view_weights_cover_the_half_turn():
    def total(geometry):
        return float(view_bin_weights(geometry)[:, 0].sum())

    assert total(fan("flat")) == pytest.approx(math.pi)
    assert total(parallel(span_deg=360)) == pytest.approx(math.pi)
    assert total(parallel()) == pytest.approx(math.pi)
    assert total(fan("flat", views=48)) == pytest.approx(math.pi)
    assert total(fan("flat", span_deg=230)) == pytest.approx(math.radians(230))
    assert total(fan("flat", span_deg=140)) == pytest.approx(math.pi)
    assert total(replace(parallel(), angles_rad=(0.4,))) == pytest.approx(math.pi)


def test_ramp_is_kak_and_slaneys():
    geometry = ParallelGeometry((0.0,), 5, 0.5)
    row = ramp_filter_matrix(geometry)[0]
    expected = torch.tensor([0.25, -1 / math.pi**2, 0.0, -1 / (9 * math.pi**2), 0.0]) / 0.5
    torch.testing.assert_close(row, expected.double())


def test_hann_is_the_ramp_smoothed_over_three_bins():
    geometry = ParallelGeometry((0.0,), 41, 1.0)
    ramp = ramp_filter_matrix(geometry)[20]
    expected = 0.5 * ramp[1:-1] + 0.25 * (ramp[:-2] + ramp[2:])
    torch.testing.assert_close(ramp_filter_matrix(geometry, "hann")[20, 1:-1], expected)


def test_dtype_and_batch_are_kept():
    geometry = fan("flat", views=20, bins=40, pitch=20.0)
    sinogram = torch.rand((2, 3, *geometry.shape), generator=torch.Generator().manual_seed(0))
    image = fbp(sinogram, geometry, GRID)
    assert image.dtype == torch.float32 and image.shape == (2, 3, 128, 128)
    double = fbp(sinogram.double(), geometry, GRID)
    assert double.dtype == torch.float64
    torch.testing.assert_close(image, double.float(), rtol=1e-4, atol=1e-4)


def test_refuses_what_does_not_fit():
    geometry = parallel(views=10)
    with pytest.raises(ValueError, match="expected shape"):
        fbp(torch.zeros(1, 1, 11, 200), geometry, GRID)
    with pytest.raises(ValueError, match="window"):
        fbp(torch.zeros(1, 1, 10, 200), geometry, GRID, "hamming")
    with pytest.raises(ValueError, match="detector_offset_mm"):
        redundancy_weights(parallel(span_deg=360, bins=10, offset=40.0))
