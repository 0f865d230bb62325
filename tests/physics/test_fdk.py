import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.ellipsoids import Ellipsoid, ball, ellipsoid_projections, ellipsoid_volume
from fedm2ct.physics.fdk import cone_weights, fdk, helical_shares
from fedm2ct.physics.geometry import equispaced_angles

GRID = VolumeGrid(9, 50, 50, 2.4, 7.0)
SCAN = ConeGeometry(equispaced_angles(120), 64, 101, 3.0, 3.0, 500.0, 1000.0)
SHORT = equispaced_angles(100, math.pi + 0.4, 0.3)
FLYING = {
    "source_angle_shift_rad": (0.002, -0.002) * 60,
    "source_radial_shift_mm": (3.0, -3.0) * 60,
    "source_axial_shift_mm": (0.5, -0.5) * 60,
}
CHANGES = {
    "full": {},
    "quarter-shifted": {"column_offset_mm": 0.75},
    "shifted": {"column_offset_mm": 20.0, "row_offset_mm": -5.0},
    "short": {"angles_rad": SHORT},
    "flying": FLYING,
}
EVERY_DETECTOR = pytest.mark.parametrize("detector", ["flat", "curved"])
EVERY_CHANGE = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def water_by_slice(volume, phantom, grid=GRID):
    """Mean over the inside of the phantom in each slice that has some."""
    truth = ellipsoid_volume(phantom, grid)
    outside = max_pool2d((truth[:, None] < 1 - 1e-9).double(), 7, 1, 3)[:, 0]
    return {
        round(float(z), 3): float(values[edge == 0].mean())
        for z, values, edge in zip(grid.z_mm, volume, outside, strict=True)
        if (edge == 0).any()
    }


@EVERY_CHANGE
@EVERY_DETECTOR
def test_a_ball_of_water_is_one(detector, change):
    """Up to 3.2 degrees from the plane (28 mm in 500) it stays within a hundredth."""
    geometry = replace(SCAN, detector=detector, **change)
    phantom = [ball(40.0)]
    water = water_by_slice(fdk(ellipsoid_projections(phantom, geometry), geometry, GRID), phantom)
    assert set(water) == {-28.0, -21.0, -14.0, -7.0, 0.0, 7.0, 14.0, 21.0, 28.0}
    assert water[0.0] == pytest.approx(1.0, abs=0.002)
    assert max(abs(value - 1) for value in water.values()) < 0.01


@EVERY_CHANGE
@EVERY_DETECTOR
@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_in_the_plane_of_the_source_it_is_the_fan_beams(detector, change, window):
    change = {**change, "row_offset_mm": 0.0, "source_axial_shift_mm": ()}
    geometry = replace(SCAN, detector=detector, n_rows=3, **change)
    generator = torch.Generator().manual_seed(1)
    projections = torch.rand(geometry.shape, generator=generator, dtype=torch.float64)
    grid = replace(GRID, slices=1)
    volume = fdk(projections, geometry, grid, window)
    image = fbp(projections[:, 1], geometry.in_plane, grid.plane, window)
    torch.testing.assert_close(volume[0], image, rtol=1e-9, atol=1e-9)


@EVERY_DETECTOR
def test_an_endless_cylinder_is_reconstructed_at_every_height(detector):
    """FDK is exact for what does not change with z (flat), nearly so on a curved detector."""
    geometry = replace(SCAN, detector=detector)
    phantom = [Ellipsoid(0.0, 0.0, 0.0, 45.0, 35.0, 1e5, 0.4, 1.0)]
    projections = ellipsoid_projections(phantom, geometry)
    volume = fdk(projections, geometry, GRID)
    difference = (volume - volume[4])[:, 15:35, 15:35].abs().max()
    assert difference < 0.003
    water = water_by_slice(volume, phantom)
    assert len(water) == GRID.slices
    assert list(water.values()) == pytest.approx([1.0] * GRID.slices, abs=0.003)


@EVERY_DETECTOR
def test_cone_weights_are_the_cosines_to_the_central_ray(detector):
    """A right triangle of rows, columns and distance; an axial shift tilts every ray."""
    geometry = replace(SCAN, detector=detector, n_rows=7, row_pitch_mm=40.0, row_offset_mm=9.0)
    u, v = geometry.in_plane.bins_mm, geometry.rows_mm[:, None]
    ahead, aside = np.full_like(u, 1000.0), u
    if detector == "curved":
        ahead, aside = 1000.0 * np.cos(u / 1000.0), 1000.0 * np.sin(u / 1000.0)
    assert cone_weights(geometry)[0].numpy() == pytest.approx(
        ahead / np.sqrt(ahead**2 + aside**2 + v**2)
    )
    shifted = replace(geometry, source_axial_shift_mm=(5.0, -5.0) * 60)
    for view, shift in enumerate((5.0, -5.0)):
        assert cone_weights(shifted)[view].numpy() == pytest.approx(
            ahead / np.sqrt(ahead**2 + aside**2 + (v - shift) ** 2)
        )


@pytest.mark.parametrize(("pitch", "offset"), [(0.5, 0.0), (-0.5, 0.0), (0.9, 0.0), (0.7, 60.0)])
@EVERY_DETECTOR
def test_a_helix_sees_balls_off_its_middle_as_water(detector, pitch, offset):
    """Where a circle would fail: 60 mm above and below, and off the axis."""
    turn = replace(SCAN, detector=detector, n_rows=24, column_offset_mm=offset)
    geometry = helical(turn, 6.2 / abs(pitch), pitch, 10.0)
    grid = VolumeGrid(17, 50, 50, 2.4, 7.0, 10.0)
    phantom = [ball(25.0, 20.0, -20.0, -20.0), ball(25.0, -20.0, 10.0, 40.0)]
    water = water_by_slice(
        fdk(ellipsoid_projections(phantom, geometry), geometry, grid), phantom, grid
    )
    assert len(water) >= 8
    assert list(water.values()) == pytest.approx([1.0] * len(water), abs=0.005)


def test_a_helix_can_be_reconstructed_slice_by_slice():
    helix = helical(replace(SCAN, n_rows=16), 6.0, 0.8)
    projections = torch.rand(helix.shape, dtype=torch.float64)
    volume = fdk(projections, helix, replace(GRID, rows=20, columns=20))
    for k in (0, 5, 8):
        z = float(GRID.z_mm[k])
        grid = replace(GRID, slices=1, rows=20, columns=20, centre_z_mm=z)
        torch.testing.assert_close(fdk(projections, helix, grid)[0], volume[k])


def test_every_slice_of_a_helix_gets_half_a_turn_in_all():
    geometry = helical(SCAN, 5.0, 0.8)
    grid = VolumeGrid(31, 10, 10, 2.0, 5.1)
    shares = helical_shares(geometry, grid)
    assert shares.sum(0).numpy() == pytest.approx(math.pi)
    by_angle = shares.reshape(5, 120, 31).sum(0)  # each angle the same, however often it is seen
    assert by_angle.numpy() == pytest.approx(math.pi / 120, rel=1e-9)


@pytest.mark.parametrize(
    ("helix", "grid", "message"),
    [
        (helical(SCAN, 4.0, 1.3), GRID, "pitch 1.30, more than 1 leaves gaps.*ConeProjector"),
        (helical(SCAN, 3.0, 0.5), replace(GRID, centre_z_mm=40.0), "from 12.0 to 68.0 mm, but of"),
        (helical(SCAN, 0.9, 0.5), replace(GRID, slices=1), "use a grid within, a longer scan"),
        (replace(SCAN, source_z_mm=(0.0, 1.0) * 60), GRID, "must go one way"),
    ],
)
def test_a_helix_that_it_cannot_do_is_refused_with_a_remedy(helix, grid, message):
    with pytest.raises(ValueError, match=message):
        fdk(torch.zeros(helix.shape), helix, grid)


def test_batches_dtypes_and_gradients():
    geometry = replace(SCAN, angles_rad=equispaced_angles(12), n_rows=8)
    projections = torch.rand(2, 1, *geometry.shape, requires_grad=True)
    volume = fdk(projections, geometry, GRID, "hann")
    assert volume.shape == (2, 1, *GRID.shape) and volume.dtype == torch.float32
    torch.testing.assert_close(volume[1, 0], fdk(projections[1, 0], geometry, GRID, "hann"))
    volume.sum().backward()
    assert projections.grad.abs().sum() > 0
    helix = helical(SCAN, 3.0, 0.5)
    grid = replace(GRID, slices=2)
    assert fdk(torch.zeros(2, *helix.shape), helix, grid).shape == (2, *grid.shape)


def test_refuses_a_wrong_shape():
    with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 120, 64, 101\)"):
        fdk(torch.zeros(120, 101, 64), SCAN, GRID)
