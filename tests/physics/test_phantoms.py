import math

import numpy as np
import pytest
import torch

from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.phantoms import (
    Ellipse,
    abdomen_like,
    ellipse_image,
    ellipse_sinogram,
    shepp_logan,
    water_disc,
)
from fedm2ct.units import MU_WATER_PER_MM


def test_a_chord_of_a_disc_has_its_length():
    geometry = ParallelGeometry((0.0, 1.0), 3, 30.0)
    sinogram = ellipse_sinogram(water_disc(50.0), geometry)[0, 0]
    chord = 2 * math.sqrt(50.0**2 - 30.0**2)
    expected = torch.tensor([chord, 100.0, chord]).double() * MU_WATER_PER_MM
    torch.testing.assert_close(sinogram, expected.expand(2, 3))


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_integrals_agree_with_walking_along_the_ray(detector):
    geometry = FanGeometry(equispaced_angles(5, start_rad=0.2), 7, 25.0, 300.0, 500.0, detector)
    e = Ellipse(20.0, -10.0, 60.0, 30.0, 0.6, 1.5)
    sinogram = ellipse_sinogram([e], geometry)[0, 0].numpy()
    step = np.linspace(0, 600.0, 60_001)
    for v, theta in enumerate(geometry.angles):
        n = np.array([np.cos(theta), np.sin(theta)])
        across = np.array([-n[1], n[0]])
        for d, gamma in enumerate(geometry.fan_angles_rad):
            way = -np.cos(gamma) * n + np.sin(gamma) * across
            points = 300.0 * n + step[:, None] * way - (e.x_mm, e.y_mm)
            u = points @ (np.cos(e.angle_rad), np.sin(e.angle_rad)) / e.a_mm
            w = points @ (-np.sin(e.angle_rad), np.cos(e.angle_rad)) / e.b_mm
            walked = 1.5 * 0.01 * np.count_nonzero(u**2 + w**2 <= 1) * MU_WATER_PER_MM
            assert sinogram[v, d] == pytest.approx(walked, abs=0.03 * MU_WATER_PER_MM)


def test_rasterised_area_is_the_ellipses():
    grid = ImageGrid(60, 80, 2.0)
    image = ellipse_image([Ellipse(10.0, -5.0, 40.0, 20.0, 0.3, 2.0)], grid, 8)
    assert float(image.sum()) * 4.0 == pytest.approx(2.0 * math.pi * 40 * 20, rel=1e-3)
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    x = float((image[0, 0] * (columns - 39.5)).sum() / image.sum()) * 2.0
    y = float((image[0, 0] * (29.5 - rows)).sum() / image.sum()) * 2.0
    assert (x, y) == pytest.approx((10.0, -5.0), abs=0.05)


def test_shepp_logan_has_its_brain_and_skull():
    image = ellipse_image(shepp_logan(100.0), ImageGrid(200, 200, 1.0))[0, 0]
    assert float(image.max()) == pytest.approx(2.0)
    assert float(image[150, 100]) == pytest.approx(1.02)


def test_abdomens_are_plausible_reproducible_and_differ():
    grid = ImageGrid(64, 64, 6.0)

    def body(seed):
        ellipses = abdomen_like(torch.Generator().manual_seed(seed), 340.0)
        return ellipses, ellipse_image(ellipses, grid)

    (one, image), (two, _), (_, other) = body(3), body(3), body(4)
    assert one == two
    assert not torch.equal(image, other)
    assert float(image.min()) > -0.15 and 1.0 < float(image.max()) < 2.0
    assert all(math.hypot(e.x_mm, e.y_mm) < 0.56 * 340 for e in one)
    assert 0.25 < float((image > 0.5).double().mean()) < 0.75


def test_refuses_an_empty_ellipse():
    with pytest.raises(ValueError, match="must be positive"):
        Ellipse(0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
