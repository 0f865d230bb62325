"""FBP's noise as computed is the scatter of images that were made."""

import math
from dataclasses import replace

import pytest
import torch

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.image_noise import WATER_DISC_MM, fbp_noise
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.phantoms import ellipse_sinogram, water_disc
from fedm2ct.physics.protocols import Protocol

GRID = ImageGrid(32, 40, 9.0)
GEOMETRIES = {
    "parallel": ParallelGeometry(equispaced_angles(30, math.pi), 48, 9.0),
    "fan": FanGeometry(equispaced_angles(40), 48, 18.0, 595.0, 1085.6, "flat", 0.0),
    "limited": FanGeometry(
        equispaced_angles(20, math.radians(120)), 48, 18.0, 595.0, 1085.6, "curved", 0.0
    ),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_it_is_the_scatter_of_reconstructions(name):
    protocol = Protocol("test", GEOMETRIES[name], GRID, 1e5, 20.0)
    disc = water_disc(WATER_DISC_MM / 2)
    rays = ellipse_sinogram(disc, protocol.geometry).float()
    generator = torch.Generator().manual_seed(0)
    noisy = add_dose_noise(rays.expand(4000, -1, -1, -1), 1e5, 20.0, generator)
    scatter = fbp(noisy, protocol.geometry, GRID)[:, 0, 16, 20].std()
    assert fbp_noise(protocol) == pytest.approx(float(scatter), rel=0.04)  # 4000 draws: 1.1 %


def test_four_times_the_photons_halve_it():
    protocol = Protocol("test", GEOMETRIES["fan"], GRID, 1e5, 0.0)
    brighter = replace(protocol, photons=4e5)
    assert fbp_noise(brighter) == pytest.approx(fbp_noise(protocol) / 2)


def test_it_is_known_where_gradients_are_off():
    protocol = Protocol("test", GEOMETRIES["fan"], GRID, 2e5, 0.0)
    with torch.no_grad():
        assert fbp_noise(protocol) > 0
