import math

import pytest
import torch

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, equispaced_angles
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.phantoms import ellipse_image, ellipse_sinogram, shepp_logan
from fedm2ct.units import MU_WATER_PER_MM

GRID = ImageGrid(48, 48, 4.0)
GEOMETRY = FanGeometry(equispaced_angles(16), 64, 8.0, 400.0, 800.0)


def rms(a, b):
    return float((a - b).square().mean().sqrt())


def test_sirt_beats_fbp_with_few_views():
    sinogram = ellipse_sinogram(shepp_logan(90.0), GEOMETRY)
    truth = ellipse_image(shepp_logan(90.0), GRID, 8)
    image = sirt(sinogram, Projector(GEOMETRY, GRID), 60)
    assert image.shape == truth.shape and float(image.min()) >= 0
    assert rms(image, truth) < 0.8 * rms(fbp(sinogram, GEOMETRY, GRID), truth)


def test_the_residual_falls_with_every_block_of_iterations():
    projector = Projector(GEOMETRY, GRID)
    sinogram = ellipse_sinogram(shepp_logan(90.0), GEOMETRY)
    residuals, image = [], None
    for _ in range(4):
        image = sirt(sinogram, projector, 5, nonnegative=False, initial=image)
        residuals.append(rms(projector(image) * MU_WATER_PER_MM, sinogram))
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.05 * float(sinogram.square().mean().sqrt())


def test_the_truth_is_a_fixed_point():
    projector = Projector(GEOMETRY, GRID)
    truth = ellipse_image(shepp_logan(90.0), GRID)
    sinogram = projector(truth) * MU_WATER_PER_MM
    image = sirt(sinogram, projector, 3, initial=truth)
    torch.testing.assert_close(image, truth)


def test_unseen_pixels_stay_finite():
    geometry = FanGeometry(equispaced_angles(4, math.pi / 3), 8, 8.0, 400.0, 800.0)
    sinogram = torch.ones(1, 1, *geometry.shape)
    assert sirt(sinogram, Projector(geometry, GRID), 2).isfinite().all()


def test_refuses_a_negative_number_of_iterations():
    with pytest.raises(ValueError, match="iterations"):
        sirt(torch.zeros(1, 1, *GEOMETRY.shape), Projector(GEOMETRY, GRID), -1)
