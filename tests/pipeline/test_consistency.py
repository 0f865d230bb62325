"""Residuals: noise has one of 1, an image that contradicts the measurement a larger one."""

import numpy as np
import pytest
import torch

from fedm2ct.data.simulate import PairedData, simulate
from fedm2ct.physics.geometry import ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.assess import to_hu
from fedm2ct.pipeline.consistency import Consistency
from fedm2ct.units import MU_WATER_PER_MM
from tests import tiny

PROTOCOL = Protocol(
    "p", ParallelGeometry(equispaced_angles(60, np.pi), 48, 9.0), ImageGrid(32, 32, 12.5), 1e6, 20.0
)


@pytest.fixture(scope="module")
def crime():
    """An acquisition whose truth explains it but for the noise: projected from its own grid."""
    truth = simulate(tiny.scan("x", 3, 2), range(2), PROTOCOL, torch.Generator()).truth
    clean = Projector(PROTOCOL.geometry, PROTOCOL.grid)(truth) * MU_WATER_PER_MM
    noisy = add_dose_noise(clean, 1e6, 20.0, torch.Generator().manual_seed(1))
    return PairedData(noisy, truth, clean)


def test_the_truth_leaves_the_noise(crime):
    found = Consistency(crime, PROTOCOL).scores(to_hu(crime.truth))
    assert found["residual"] == pytest.approx([1, 1], abs=0.03)
    assert found["residual_to_truth"] == pytest.approx([1, 1], abs=1e-4)


def test_an_error_in_the_image_adds_as_its_projection_does(crime):
    consistency = Consistency(crime, PROTOCOL)
    error = torch.zeros_like(crime.truth)
    error[:, :, 12:20, 12:20] = 0.1
    added = Projector(PROTOCOL.geometry, PROTOCOL.grid)(error) * MU_WATER_PER_MM
    counts = 1e6 * torch.exp(-crime.clean)
    variance = (counts + 400) / counts**2
    expected = (1 + (added**2 / variance).mean((1, 2, 3))).sqrt()
    found = consistency.scores(to_hu(crime.truth + error))["residual"]
    assert float(expected.min()) > 2
    assert found == pytest.approx(expected.tolist(), rel=0.03)


def test_negative_attenuation_is_projected_as_it_is(crime):
    consistency = Consistency(crime, PROTOCOL)
    image = crime.truth - 0.3
    direct = consistency.residual(image)
    assert consistency.scores(to_hu(image))["residual"] == pytest.approx(direct, rel=1e-4)


def test_fbp_is_its_own_measure(crime):
    from fedm2ct.physics.analytic import fbp

    image = fbp(crime.projections, PROTOCOL.geometry, PROTOCOL.grid)
    found = Consistency(crime, PROTOCOL).scores(to_hu(image))
    assert found["residual_to_fbp"] == pytest.approx([1, 1], rel=1e-4)
    ratio = np.divide(found["residual"], found["residual_to_truth"])
    assert ratio == pytest.approx(Consistency(crime, PROTOCOL).of_truth)
