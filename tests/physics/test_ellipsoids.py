import math
from dataclasses import replace

import numpy as np
import pytest

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.physics.ellipsoids import Ellipsoid, ball, ellipsoid_projections, ellipsoid_volume
from fedm2ct.physics.geometry import equispaced_angles
from fedm2ct.units import MU_WATER_PER_MM

SCAN = ConeGeometry(equispaced_angles(3, start_rad=0.2), 5, 7, 20.0, 25.0, 300.0, 500.0)
SHIFTED = replace(
    SCAN,
    detector="curved",
    row_offset_mm=6.0,
    source_z_mm=(-10.0, 0.0, 12.0),
    source_angle_shift_rad=(0.03, 0.0, -0.03),
    source_radial_shift_mm=(0.0, 8.0, -8.0),
    source_axial_shift_mm=(4.0, -4.0, 0.0),
)


def test_the_central_ray_crosses_a_ball_along_its_diameter():
    projections = ellipsoid_projections([ball(50.0)], SCAN) / MU_WATER_PER_MM
    assert projections[:, 2, 3].numpy() == pytest.approx(100.0)
    up = math.atan(20.0 / 500.0)  # the row above
    chord = 2 * math.sqrt(50.0**2 - (300.0 * math.sin(up)) ** 2)
    assert projections[:, 3, 3].numpy() == pytest.approx(chord)


@pytest.mark.parametrize("scan", [SCAN, SHIFTED], ids=["flat", "curved, shifted"])
def test_integrals_agree_with_walking_along_the_ray(scan):
    e = Ellipsoid(20.0, -10.0, 5.0, 60.0, 30.0, 20.0, 0.6, 1.5)
    projections = ellipsoid_projections([e], scan).numpy() / MU_WATER_PER_MM
    step = np.linspace(0, 1, 20_001)[:, None]
    for v, theta in enumerate(scan.angles):
        n, e1 = np.array([np.cos(theta), np.sin(theta)]), np.array([-np.sin(theta), np.cos(theta)])
        z = scan.source_z_mm[v] if scan.source_z_mm else 0.0
        turn, out, up = (
            (scan.source_angle_shift_rad[v], scan.source_radial_shift_mm[v],
             scan.source_axial_shift_mm[v]) if scan is SHIFTED else (0.0, 0.0, 0.0)
        )  # fmt: skip
        at = theta + turn
        source = (300.0 + out) * np.array([np.cos(at), np.sin(at), 0.0]) + (0.0, 0.0, z + up)
        for r, height in enumerate(scan.rows_mm):
            for c, u in enumerate(scan.in_plane.bins_mm):
                if scan.detector == "curved":
                    gamma = u / 500.0
                    end = 300.0 * n + 500.0 * (-np.cos(gamma) * n + np.sin(gamma) * e1)
                else:
                    end = -200.0 * n + u * e1
                way = np.array([*end, z + height]) - source
                x, y, h = (source + step * way - (e.x_mm, e.y_mm, e.z_mm)).T
                a = (x * math.cos(0.6) + y * math.sin(0.6)) / 60.0
                b = (y * math.cos(0.6) - x * math.sin(0.6)) / 30.0
                inside = np.count_nonzero(a**2 + b**2 + (h / 20.0) ** 2 <= 1)
                walked = 1.5 * inside * np.linalg.norm(way) / 20_000
                assert projections[v, r, c] == pytest.approx(walked, abs=0.1)
    assert projections.max() > 50


def test_rasterised_volume_and_place_are_the_ellipsoids():
    grid = VolumeGrid(30, 40, 50, 3.0, 2.0, 6.0)
    e = Ellipsoid(10.0, -5.0, 8.0, 40.0, 30.0, 20.0, 0.3, 2.0)
    volume = ellipsoid_volume([e], grid, 3).numpy()
    total = volume.sum()
    assert total * 18.0 == pytest.approx(2.0 * 4 / 3 * math.pi * 40 * 30 * 20, rel=2e-3)
    z = (volume.sum((1, 2)) @ grid.z_mm) / total
    y = (volume.sum((0, 2)) @ ((19.5 - np.arange(40)) * 3.0)) / total
    x = (volume.sum((0, 1)) @ ((np.arange(50) - 24.5) * 3.0)) / total
    assert (x, y, z) == pytest.approx((10.0, -5.0, 8.0), abs=0.05)


def test_refuses_an_empty_ellipsoid():
    with pytest.raises(ValueError, match="must be positive"):
        Ellipsoid(0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0)
