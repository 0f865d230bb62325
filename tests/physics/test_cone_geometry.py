import math
from dataclasses import replace

import numpy as np
import pytest

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, equispaced_angles

SCAN = ConeGeometry(equispaced_angles(8), 4, 6, 2.0, 3.0, 500.0, 1000.0)


def test_slices_rows_and_columns_lie_where_the_conventions_say():
    grid = VolumeGrid(3, 4, 5, 2.0, 1.5, centre_z_mm=10.0)
    assert grid.shape == (3, 4, 5)
    assert grid.z_mm == pytest.approx([8.5, 10.0, 11.5])
    assert grid.plane == ImageGrid(4, 5, 2.0)
    scan = replace(SCAN, row_offset_mm=0.5)
    assert scan.shape == (8, 4, 6)
    assert scan.rows_mm == pytest.approx([-2.5, -0.5, 1.5, 3.5])
    assert (scan.n_rows - 1) / 2 - 0.5 / 2.0 == pytest.approx(
        np.interp(0.0, scan.rows_mm, np.arange(4))
    )  # the element that the central ray meets


def test_a_refined_grid_covers_the_same_space():
    grid = VolumeGrid(3, 4, 5, 2.0, 1.5, 10.0)
    fine = grid.refined(4)
    assert fine.shape == (12, 16, 20)
    assert fine.slices * fine.slice_mm == grid.slices * grid.slice_mm
    assert fine.plane.field_of_view_mm == grid.plane.field_of_view_mm
    assert fine.z_mm.mean() == pytest.approx(10.0)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_the_plane_holds_a_fan_beam(detector):
    scan = replace(SCAN, detector=detector, column_offset_mm=1.0)
    fan = FanGeometry(scan.angles_rad, 6, 3.0, 500.0, 1000.0, detector, 1.0)
    assert scan.in_plane == fan
    along, across = scan.elements_mm
    assert np.arctan2(across, 500.0 - along) == pytest.approx(fan.fan_angles_rad)
    if detector == "curved":
        assert np.hypot(across, 500.0 - along) == pytest.approx(1000.0)


def test_the_focal_spot_flies_and_the_detector_does_not():
    scan = replace(SCAN, source_z_mm=(5.0,) * 8, source_axial_shift_mm=(0.6, -0.6) * 4)
    assert scan.focus_z_mm == pytest.approx([5.6, 4.4] * 4)
    assert scan.detector_z_mm == pytest.approx([5.0] * 8)
    assert not scan.is_helical


def test_a_part_of_the_views_keeps_their_numbers():
    helix = replace(helical(SCAN, 2.0, 1.0), source_axial_shift_mm=tuple(range(16)))
    part = helix.of_views(3, 7)
    assert part.shape == (4, 4, 6)
    assert part.angles_rad == helix.angles_rad[3:7] and part.source_z_mm == helix.source_z_mm[3:7]
    assert part.source_axial_shift_mm == (3, 4, 5, 6) and part.source_angle_shift_rad == ()


@pytest.mark.parametrize("pitch", [0.75, -1.2])
def test_a_helix_rises_by_pitch_times_collimation_in_a_turn(pitch):
    helix = helical(SCAN, turns=2.5, pitch=pitch, centre_z_mm=7.0)
    assert helix.n_views == 20 and helix.is_helical
    heights = np.array(helix.source_z_mm)
    assert SCAN.collimation_mm == 4.0  # four rows of 2 mm, halved at the isocentre
    assert heights[8:] - heights[:-8] == pytest.approx(pitch * 4.0)
    assert heights.mean() == pytest.approx(7.0)
    assert np.diff(helix.angles) == pytest.approx(2 * math.pi / 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rows": 0}, "n_rows must be positive, not 0"),
        ({"row_pitch_mm": math.nan}, "row_pitch_mm must be positive"),
        ({"column_pitch_mm": -1.0}, "column_pitch_mm must be positive"),
        ({"row_offset_mm": math.inf}, "row_offset_mm must be finite"),
        ({"source_z_mm": (1.0, 2.0)}, "source_z_mm must be empty or hold .* 8 views, not 2"),
        ({"source_axial_shift_mm": (math.nan,) * 8}, "source_axial_shift_mm must be empty"),
        ({"source_radial_shift_mm": (1.0,)}, "ConeGeometry: source_radial_shift_mm must be"),
        ({"source_to_detector_mm": 400.0}, "ConeGeometry: source_to_detector_mm must not be"),
        ({"detector": "round"}, "ConeGeometry: detector must be 'flat' or 'curved'"),
        ({"angles_rad": ()}, "ConeGeometry: angles_rad must hold at least one"),
        ({"detector": "curved", "column_pitch_mm": 700.0}, "must lie before the source"),
    ],
)
def test_refuses_what_no_scanner_is(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SCAN, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 4, 1.0, 1.0), "slices, rows, columns must be > 0"),
        ((4, 4, 4, 0.0, 1.0), "pixel_mm must be positive"),
        ((4, 4, 4, 1.0, math.nan), "slice_mm must be positive"),
        ((4, 4, 4, 1.0, 1.0, math.inf), "centre_z_mm must be finite"),
    ],
)
def test_refuses_an_empty_volume(arguments, message):
    with pytest.raises(ValueError, match=message):
        VolumeGrid(*arguments)


@pytest.mark.parametrize(
    ("change", "turns", "pitch", "message"),
    [
        ({"angles_rad": equispaced_angles(8, math.pi)}, 2.0, 1.0, "full circle"),
        ({"source_axial_shift_mm": (1.0, 0.0) * 4}, 2.0, 1.0, "focal spot"),
        ({}, 2.0, 0.0, "pitch must be finite and not zero"),
        ({}, 0.0, 1.0, "turns must be positive"),
    ],
)
def test_refuses_what_makes_no_helix(change, turns, pitch, message):
    with pytest.raises(ValueError, match=message):
        helical(replace(SCAN, **change), turns, pitch)
