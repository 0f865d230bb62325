import math

import pytest
import torch

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.cone_operators import ConeProjector
from fedm2ct.physics.ellipsoids import ball, ellipsoid_projections, ellipsoid_volume
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


@pytest.mark.parametrize("pitch", [0.0, 1.6])
def test_sirt_of_a_cone_beam_finds_water_where_fdk_refuses(pitch):
    circle = ConeGeometry(equispaced_angles(30), 20, 24, 5.0, 8.0, 400.0, 800.0)
    scan = helical(circle, turns=3.0, pitch=pitch) if pitch else circle
    grid = VolumeGrid(10, 20, 20, 4.0, 4.0)
    phantom = [ball(14.0, 6.0, -4.0, 2.0)]
    projections = ellipsoid_projections(phantom, scan)
    volume = sirt(projections[None], ConeProjector(scan, grid), 60)[0]
    assert volume.shape == grid.shape
    inside = ellipsoid_volume([ball(10.0, 6.0, -4.0, 2.0)], grid, 4) == 1
    assert inside.sum() > 20
    assert float(volume[inside].mean()) == pytest.approx(1.0, abs=0.02)
