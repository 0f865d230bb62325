"""Slices on a protocol's grid: identity, exact means, centring, air outside."""

import numpy as np
import pytest
import torch

from fedm2ct.data.resample import slices_on_grid
from fedm2ct.data.scans import Scan, ScanError
from fedm2ct.physics.geometry import ImageGrid


def make_scan(spacing: tuple[float, float, float] = (5.0, 1.0, 1.0), size: int = 16) -> Scan:
    rng = np.random.default_rng(3)
    hu = rng.uniform(-1000, 1500, (3, size, size)).astype(np.float32)
    return Scan(hu, spacing, "made", "nobody")


def test_the_scans_own_grid_changes_nothing():
    scan = make_scan()
    out = slices_on_grid(scan, ImageGrid(16, 16, 1.0), [2, 0])
    assert out.shape == (2, 1, 16, 16) and out.dtype == torch.float32
    np.testing.assert_allclose(out[:, 0], scan.hu[[2, 0]], atol=1e-3)


def test_shrinking_by_two_is_the_mean_of_blocks():
    scan = make_scan()
    out = slices_on_grid(scan, ImageGrid(8, 8, 2.0), [1])
    expected = scan.hu[1].reshape(8, 2, 8, 2).mean((1, 3))
    np.testing.assert_allclose(out[0, 0], expected, atol=1e-3)


def test_anisotropic_pixels_are_resampled_along_their_own_axis():
    hu = np.full((1, 10, 10), -1000, np.float32)
    hu[0, 2:8, :] = 0.0  # 6 rows of 2 mm: 12 mm high; 10 columns of 1 mm
    scan = Scan(hu, (1.0, 2.0, 1.0), "made", "nobody")
    out = slices_on_grid(scan, ImageGrid(20, 20, 1.0), [0])[0, 0]
    inside = (out > -500).numpy()
    assert inside.any(1).nonzero()[0].tolist() == list(range(4, 16))
    assert inside.any(0).nonzero()[0].tolist() == list(range(5, 15))


@pytest.mark.parametrize("pixel_mm", [0.4, 0.9, 1.3, 3.7])
def test_mass_above_air_is_kept_in_any_grid_that_holds_the_scan(pixel_mm: float):
    scan = make_scan()
    size = int(np.ceil(18 / pixel_mm)) + 1
    out = slices_on_grid(scan, ImageGrid(size, size, pixel_mm), [0]).double()
    mass = float((out + 1024).sum()) * pixel_mm**2
    assert mass == pytest.approx(float((scan.hu[0].astype(float) + 1024).sum()), rel=1e-4)


@pytest.mark.parametrize("pixel_mm", [0.7, 1.6])
def test_blocks_of_the_refined_grid_average_to_the_grid(pixel_mm: float):
    scan, grid = make_scan(), ImageGrid(12, 12, pixel_mm)
    fine = slices_on_grid(scan, grid.refined(3), [0], interpolant_pixel_mm=pixel_mm)
    coarse = slices_on_grid(scan, grid, [0])
    np.testing.assert_allclose(torch.nn.functional.avg_pool2d(fine, 3), coarse, atol=2e-3)


def test_outside_the_scan_is_air_and_a_smaller_grid_is_its_centre():
    scan = make_scan()
    large = slices_on_grid(scan, ImageGrid(20, 20, 1.0), [0])[0, 0]
    assert (large[:2] == -1024).all() and (large[:, -2:] == -1024).all()
    small = slices_on_grid(scan, ImageGrid(4, 4, 1.0), [0])[0, 0]
    np.testing.assert_allclose(small, scan.hu[0, 6:10, 6:10], atol=1e-3)


def test_a_linear_ramp_stays_linear_when_enlarged():
    hu = np.tile(np.arange(16, dtype=np.float32) * 50 - 300, (1, 16, 1))
    scan = Scan(hu, (1.0, 2.0, 2.0), "ramp", "nobody")
    out = slices_on_grid(scan, ImageGrid(32, 32, 1.0), [0])[0, 0, 16, 2:-2]
    np.testing.assert_allclose(np.diff(out.numpy()), 25.0, atol=1e-2)


def test_wrong_slices_are_refused():
    for slices, message in (([], "no slices"), ([0, 3], "there is no 3"), ([-1], "no -1")):
        with pytest.raises(ScanError, match=message):
            slices_on_grid(make_scan(), ImageGrid(8, 8, 1.0), slices)
