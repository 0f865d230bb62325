"""The cone beam agrees with exact integrals, with the fan beam, and with the conventions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.cone_operators import ConeBackprojector, ConeProjector
from fedm2ct.physics.ellipsoids import Ellipsoid, ball, ellipsoid_projections, ellipsoid_volume
from fedm2ct.physics.geometry import equispaced_angles
from fedm2ct.physics.operators import Projector, WeightedBackprojector
from fedm2ct.units import MU_WATER_PER_MM
from tests.properties.cone_cases import CONES, VOLUME
from tests.properties.helpers import random, relative_error

PHANTOM = [
    Ellipsoid(12.0, -20.0, 5.0, 60.0, 40.0, 30.0, 0.4, 1.0),
    Ellipsoid(-30.0, 15.0, -8.0, 18.0, 30.0, 22.0, -0.7, 0.5),
]
_FLAT = ConeGeometry(equispaced_angles(6, start_rad=0.05), 24, 60, 6.0, 8.0, 400.0, 800.0)
_CURVED = replace(_FLAT, detector="curved", column_offset_mm=10.0, row_offset_mm=-4.0)
_FLYING = {
    "source_angle_shift_rad": (0.02, -0.02) * 3,
    "source_radial_shift_mm": (5.0, -5.0, 0.0) * 2,
    "source_axial_shift_mm": (-3.0, 3.0) * 3,
}
LARGE = {
    "flat": _FLAT,
    "flat-flying": replace(_FLAT, **_FLYING),
    "curved": _CURVED,
    "curved-flying": replace(_CURVED, **_FLYING),
    "helix": helical(_FLAT, turns=1.5, pitch=0.5),
    "helix-downwards": helical(_CURVED, turns=1.5, pitch=-0.5, centre_z_mm=4.0),
}
EVERY_CONE = pytest.mark.parametrize("geometry", CONES.values(), ids=CONES.keys())
EVERY_LARGE = pytest.mark.parametrize("geometry", LARGE.values(), ids=LARGE.keys())


@EVERY_LARGE
def test_projector_agrees_with_exact_ellipsoid_integrals(geometry):
    exact = ellipsoid_projections(PHANTOM, geometry) / MU_WATER_PER_MM
    errors = []
    for factor in (1, 2):
        grid = VolumeGrid(20, 32, 32, 6.0, 5.0, 3.0).refined(factor)
        projected = ConeProjector(geometry, grid)(ellipsoid_volume(PHANTOM, grid, 8 // factor))
        errors.append(relative_error(projected, exact))
    assert errors[1] < 0.035
    assert errors[1] < 0.6 * errors[0]  # and the error falls with the voxel


def seen_at(geometry, x, y, z):
    """Follow the line from each view's source through a point to the detector, in 3-D.

    Written out in the scanner's coordinates, without the code under test.
    """
    places = []
    for view, theta in enumerate(geometry.angles):
        n, e = np.array([np.cos(theta), np.sin(theta)]), np.array([-np.sin(theta), np.cos(theta)])
        height = geometry.source_z_mm[view] if geometry.source_z_mm else 0.0
        nominal = geometry.source_to_isocentre_mm * n
        shifts = (
            geometry.source_angle_shift_rad,
            geometry.source_radial_shift_mm,
            geometry.source_axial_shift_mm,
        )
        turn, out, up = (shift[view] if shift else 0.0 for shift in shifts)
        radius = geometry.source_to_isocentre_mm + out
        source = radius * np.array([np.cos(theta + turn), np.sin(theta + turn)])
        way = np.array([x, y]) - source
        if geometry.detector == "flat":
            distance = geometry.source_to_detector_mm
            t = (distance + (source - nominal) @ n) / (way @ -n)
            u = (source + t * way) @ e
        else:
            a, b = way @ way, way @ (source - nominal)
            rest = (source - nominal) @ (source - nominal) - geometry.source_to_detector_mm**2
            t = (-b + np.sqrt(b * b - a * rest)) / a
            hit = source + t * way - nominal
            u = geometry.source_to_detector_mm * np.arctan2(hit @ e, hit @ -n)
        v = (height + up) + t * (z - height - up) - height
        places.append((u, v))
    return np.array(places)


@EVERY_LARGE
def test_a_spot_is_projected_where_the_conventions_say(geometry):
    """A spot at the top right, towards the head: x > 0, y > 0, z > 0."""
    grid = VolumeGrid(31, 40, 40, 4.0, 3.0, 1.0)
    volume = torch.zeros(grid.shape, dtype=torch.float64)
    layer, row, column = 18, 9, 26
    volume[layer - 1 : layer + 2, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    x, y, z = (column - 19.5) * 4.0, (19.5 - row) * 4.0, 1.0 + (layer - 15) * 3.0
    wide = replace(geometry, n_rows=60, row_pitch_mm=3.0)  # sees the spot whole in every view
    projections = ConeProjector(wide, grid)(volume).numpy()
    total = projections.sum(axis=(1, 2))
    assert np.all(total > 0)
    u = (projections.sum(1) @ wide.in_plane.bins_mm) / total
    v = (projections.sum(2) @ wide.rows_mm) / total
    expected = seen_at(wide, x, y, z)
    assert np.abs(u - expected[:, 0]).max() < 0.1 * wide.column_pitch_mm
    assert np.abs(v - expected[:, 1]).max() < 0.1 * wide.row_pitch_mm


@EVERY_LARGE
def test_back_projection_reads_where_the_conventions_say(geometry):
    """Projections that hold their own coordinates give each voxel where it is seen."""
    wide = replace(geometry, n_rows=60, row_pitch_mm=3.0)
    grid = VolumeGrid(7, 9, 9, 12.0, 6.0)
    view = 4
    for axis, values in ((0, wide.in_plane.bins_mm[None, :]), (1, wide.rows_mm[:, None])):
        projections = torch.zeros(2, *wide.shape, dtype=torch.float64)
        projections[0, view] = torch.from_numpy(np.broadcast_to(values, wide.shape[1:]).copy())
        projections[1, view] = 1.0
        at, weight = ConeBackprojector(wide, grid)(projections).numpy()
        assert np.all(weight > 0)
        for k, i, j in ((0, 0, 0), (3, 4, 4), (6, 1, 7), (5, 8, 2)):
            x, y = (j - 4) * 12.0, (4 - i) * 12.0
            expected = seen_at(wide, x, y, grid.z_mm[k])[view, axis]
            assert at[k, i, j] / weight[k, i, j] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["flat", "flat-flying", "curved", "curved-flying"])
def test_the_middle_row_is_a_fan_beam(name):
    """Without axial shifts and offsets, the middle row runs in the middle slice."""
    geometry = replace(LARGE[name], n_rows=5, row_offset_mm=0.0, source_axial_shift_mm=())
    grid = VolumeGrid(3, 32, 40, 5.0, 4.0)
    fan, plane = geometry.in_plane, grid.plane
    volume = random((2, *grid.shape), 1)
    rays = ConeProjector(geometry, grid)(volume)[:, :, 2]
    assert relative_error(rays, Projector(fan, plane)(volume[:, 1])) < 1e-12
    projections = random((2, *geometry.shape), 2)
    slices = ConeBackprojector(geometry, grid)(projections)[:, 1]
    expected = WeightedBackprojector(fan, plane, "torch")(projections[:, :, 2])
    assert relative_error(slices, expected) < 1e-12


def test_an_endless_object_is_longer_by_the_cone_angle_alone():
    """What does not change with z: each row's integrals are the fan beam's, over the cosine."""
    geometry = replace(_CURVED, row_offset_mm=0.0)
    grid = VolumeGrid(80, 32, 32, 6.0, 5.0)
    image = random((32, 32), 3).abs()
    rays = ConeProjector(geometry, grid)(image.expand(grid.shape).contiguous())
    slope = torch.from_numpy(geometry.rows_mm / geometry.source_to_detector_mm)
    flat = Projector(geometry.in_plane, grid.plane)(image)
    expected = flat[:, None] * torch.sqrt(1 + slope[:, None] ** 2)
    assert relative_error(rays, expected) < 1e-12


def test_a_ball_on_the_table_moves_with_it():
    """On a helix the ball is level with the source in the view at the ball's height."""
    geometry = helical(replace(_FLAT, n_rows=41), turns=4.0, pitch=1.0)
    feed = geometry.collimation_mm
    assert np.diff(geometry.source_z_mm) == pytest.approx(feed / 6)
    at = 14
    z = geometry.source_z_mm[at]
    projections = ellipsoid_projections([ball(20.0, z_mm=z)], geometry).numpy()
    level = [float(p.sum(1) @ geometry.rows_mm / p.sum()) for p in projections[at - 1 : at + 2]]
    assert level == pytest.approx([2 * feed / 6, 0.0, -2 * feed / 6], rel=0.02, abs=1e-9)


@EVERY_CONE
@pytest.mark.parametrize("operator", [ConeProjector, ConeBackprojector])
def test_result_does_not_depend_on_the_number_of_threads(operator, geometry):
    apply = operator(geometry, VOLUME)
    shapes = (VOLUME.shape, geometry.shape)
    domain, codomain = shapes if operator is ConeProjector else shapes[::-1]
    x = random((2, *domain), 3, torch.float32)
    y = random((2, *codomain), 4, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((apply(x), apply.adjoint(y)))
    finally:
        torch.set_num_threads(before)
    for forward, adjoint in results[1:]:
        assert torch.equal(forward, results[0][0])
        assert torch.equal(adjoint, results[0][1])


def test_the_source_must_lie_outside_the_volume():
    geometry = ConeGeometry(equispaced_angles(8), 3, 19, 2.0, 4.1, 14.0, 110.0)
    for operator in (ConeProjector, ConeBackprojector):
        with pytest.raises(ValueError, match="use a smaller grid"):
            operator(geometry, VOLUME)


def test_tensors_elsewhere_are_refused():
    geometry = CONES["flat"]
    with pytest.raises(ValueError, match=r"on the CPU only; move the tensor there"):
        ConeProjector(geometry, VOLUME)(torch.zeros(VOLUME.shape, device="meta"))


def test_shares_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shares must have the shape \(6, 5\)"):
        ConeBackprojector(CONES["flat"], VOLUME, torch.ones(5, 6))
