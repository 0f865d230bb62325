import math

import numpy as np
import pytest

from fedm2ct.physics.geometry import (
    FanGeometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)


def test_covered_radius_of_each_detector():
    assert ParallelGeometry((0.0,), 10, 2.0).covered_radius_mm == 10.0
    assert ParallelGeometry((0.0,), 10, 2.0, -3.0).covered_radius_mm == 7.0
    flat = FanGeometry((0.0,), 10, 2.0, 50.0, 100.0)
    curved = FanGeometry((0.0,), 10, 2.0, 50.0, 100.0, "curved")
    assert flat.covered_radius_mm == pytest.approx(50 * math.sin(math.atan(0.1)))
    assert curved.covered_radius_mm == pytest.approx(50 * math.sin(0.1))


def test_bins_are_centred_and_shifted():
    np.testing.assert_allclose(ParallelGeometry((0.0,), 3, 2.0, 0.5).bins_mm, [-1.5, 0.5, 2.5])


def flying(**shift):
    return FanGeometry((0.3,), 3, 1.0, 5.0, 9.0, **shift)


def test_a_flying_focal_spot_moves_the_source_but_not_the_detector():
    geometry = flying(source_angle_shift_rad=(0.1,), source_radial_shift_mm=(2.0,))
    along, across = geometry.sources_mm
    assert along == pytest.approx([7 * math.cos(0.1)])
    assert across == pytest.approx([7 * math.sin(0.1)])
    assert geometry.has_source_shift and not flying(source_angle_shift_rad=(0.0,)).has_source_shift
    assert np.array_equal(geometry.bins_mm, flying().bins_mm)


def test_equispaced_angles_leave_out_the_end():
    assert equispaced_angles(4, math.pi, 1.0) == pytest.approx(
        [1 + i * math.pi / 4 for i in range(4)]
    )


def test_geometries_are_values():
    one, two = (FanGeometry(equispaced_angles(3), 4, 1.0, 5.0, 9.0) for _ in range(2))
    assert one == two and hash(one) == hash(two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageGrid(0, 3, 1.0), "rows and columns"),
        (lambda: ImageGrid(3, 3, 0.0), "pixel_mm"),
        (lambda: ParallelGeometry((), 3, 1.0), "angles_rad"),
        (lambda: ParallelGeometry((math.nan,), 3, 1.0), "angles_rad"),
        (lambda: ParallelGeometry((0.0,), 0, 1.0), "n_bins"),
        (lambda: ParallelGeometry((0.0,), 3, -1.0), "detector_pitch_mm"),
        (lambda: FanGeometry((0.0,), 3, 1.0, 0.0, 9.0), "source_to_isocentre_mm"),
        (lambda: FanGeometry((0.0,), 3, 1.0, 10.0, 9.0), "source_to_detector_mm"),
        (lambda: FanGeometry((0.0,), 3, 1.0, 5.0, 9.0, "round"), "detector"),
        (lambda: flying(source_angle_shift_rad=(0.1, 0.1)), "source_angle_shift_rad must be empty"),
        (lambda: flying(source_radial_shift_mm=(math.inf,)), "source_radial_shift_mm must be"),
        (lambda: flying(source_radial_shift_mm=(-9.5,)), "behind the detector"),
    ],
)
def test_impossible_geometries_name_the_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()
