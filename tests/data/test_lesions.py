"""Planting: the right contrast at the right place, in projections and truth, noise unchanged."""

import math

import pytest
import torch

from fedm2ct.data.lesions import Lesion, coverage, plant
from fedm2ct.data.simulate import simulate
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.geometry import ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.phantoms import Ellipse, ellipse_sinogram
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM
from tests import tiny

PROTOCOL = Protocol(
    "p",
    ParallelGeometry(equispaced_angles(90, math.pi), 96, 4.5),
    ImageGrid(64, 64, 6.25),
    1e4,
    5.0,
)
LESIONS = [Lesion(0, 40.0, -25.0, 60.0, -40.0), Lesion(2, -70.0, 0.0, 40.0, 80.0)]


@pytest.fixture(scope="module")
def pair():
    data = simulate(tiny.scan("x", 3, 3), range(3), PROTOCOL, torch.Generator().manual_seed(5))
    return data, plant(data, LESIONS, PROTOCOL)


def test_the_truth_holds_discs_of_the_stated_contrast_place_and_area(pair):
    data, planted = pair
    added = (planted.truth - data.truth)[:, 0]
    assert float(added[1].abs().max()) == 0
    for lesion in LESIONS:
        image = added[lesion.slice_index]
        area = float(image.sum()) * PROTOCOL.grid.pixel_mm**2
        disc = math.pi / 4 * lesion.diameter_mm**2
        assert area == pytest.approx(lesion.contrast_hu / 1000 * disc, rel=0.02)
        row = round(63 / 2 - lesion.y_mm / 6.25)
        column = round(63 / 2 + lesion.x_mm / 6.25)
        assert float(image[row, column]) == pytest.approx(lesion.contrast_hu / 1000, abs=1e-6)
        cover = coverage(lesion, PROTOCOL.grid)
        torch.testing.assert_close(
            image.double(), cover * lesion.contrast_hu / 1000, atol=6e-3, rtol=0
        )


def test_the_projections_gain_the_discs_exact_line_integrals(pair):
    data, planted = pair
    for lesion in LESIONS:
        radius = lesion.diameter_mm / 2
        disc = Ellipse(lesion.x_mm, lesion.y_mm, radius, radius, 0.0, lesion.contrast_hu / 1000)
        exact = ellipse_sinogram([disc], PROTOCOL.geometry)[0, 0].float()
        added = (planted.projections - data.projections)[lesion.slice_index, 0]
        peak = abs(lesion.contrast_hu) / 1000 * lesion.diameter_mm * MU_WATER_PER_MM
        assert float(exact.abs().max()) == pytest.approx(peak, rel=0.01)
        assert float((added - exact).square().mean().sqrt()) < 0.03 * peak


def test_the_noise_is_the_same_ray_by_ray(pair):
    data, planted = pair
    torch.testing.assert_close(
        planted.projections - planted.clean, data.projections - data.clean, atol=2e-6, rtol=0
    )


def test_fbp_of_both_differs_by_the_lesion(pair):
    data, planted = pair
    images = [fbp(d.projections, PROTOCOL.geometry, PROTOCOL.grid) for d in (planted, data)]
    difference = (images[0] - images[1])[0, 0]
    inside = coverage(Lesion(0, 40.0, -25.0, 40.0, 1.0), PROTOCOL.grid) == 1
    assert inside.sum() > 10
    assert float(difference[inside].mean()) == pytest.approx(-0.040, abs=0.002)
