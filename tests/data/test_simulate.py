"""Simulated acquisitions: right units, right noise, no inverse crime, repeatable."""

import math

import numpy as np
import pytest
import torch

from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import project_finely, simulate
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM

RADIUS_MM = 40.0


def water_disc(pixel_mm: float = 0.5, size: int = 200) -> Scan:
    x = (np.arange(size) - (size - 1) / 2) * pixel_mm
    inside = x[:, None] ** 2 + x**2 <= RADIUS_MM**2
    hu = np.where(inside, 0, -1000).astype(np.int16)
    return Scan(np.stack([hu, hu]), (1.0, pixel_mm, pixel_mm), "disc", "nobody")


def protocol(photons: float = 1e4, fan: bool = False) -> Protocol:
    angles = equispaced_angles(12, 2 * math.pi if fan else math.pi)
    geometry = (
        FanGeometry(angles, 64, 3.6, 500.0, 1000.0, "curved", 0.9)
        if fan
        else ParallelGeometry(angles, 64, 1.8)
    )
    return Protocol("p", geometry, ImageGrid(48, 48, 2.2), photons, 5.0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def test_line_integrals_of_a_water_disc_are_its_chords_times_mu():
    data = simulate(water_disc(), [0], protocol(), generator(), oversampling=4)
    fine = (np.arange(256) - 127.5) * 0.45
    chords = 2 * np.sqrt(np.maximum(RADIUS_MM**2 - fine**2, 0)).reshape(64, 4).mean(1)
    error = data.clean[0, 0].numpy() - chords * MU_WATER_PER_MM
    assert np.abs(error).max() < 0.04  # a 0.55 mm pixel at the disc's edge
    assert abs(float(error.mean())) < 2e-3


@pytest.mark.parametrize("fan", [False, True])
def test_shapes_truth_and_noise(fan: bool):
    p = protocol(fan=fan)
    data = simulate(water_disc(), [0, 1], p, generator())
    assert data.projections.shape == data.clean.shape == (2, 1, 12, 64)
    assert data.truth.shape == (2, 1, 48, 48)
    assert data.projections.dtype == data.truth.dtype == torch.float32
    assert float(data.truth.max()) == pytest.approx(1.0, abs=1e-4)
    assert float(data.truth[..., 0, 0].max()) == pytest.approx(0.0, abs=1e-4)
    counts = p.photons * torch.exp(-data.clean.double())
    expected = torch.sqrt(counts + p.electronic_noise**2) / counts
    pulls = (data.projections - data.clean).double() / expected
    assert float(pulls.std()) == pytest.approx(1.0, abs=0.06)


def test_bins_stay_in_their_place_when_the_detector_is_refined():
    p = protocol(fan=True)
    x = torch.zeros(1, 1, 48, 48)
    x[..., 30, 10] = 1.0
    coarse = Projector(p.geometry, p.grid)(x) * MU_WATER_PER_MM
    fine = project_finely(x.repeat_interleave(3, -1).repeat_interleave(3, -2), p, 3)
    bins = torch.arange(64.0)
    middle = [(s[0, 0] * bins).sum(-1) / s[0, 0].sum(-1) for s in (coarse, fine)]
    assert float((middle[0] - middle[1]).abs().max()) < 0.2


def test_the_seed_decides_the_noise_and_the_dose_its_size():
    first, again = (simulate(water_disc(), [0], protocol(), generator()) for _ in range(2))
    assert torch.equal(first.projections, again.projections)
    other = simulate(water_disc(), [0], protocol(), torch.Generator().manual_seed(12))
    assert not torch.equal(first.projections, other.projections)
    dose = simulate(water_disc(), [0], protocol(photons=1e6), generator())
    ratio = (first.projections - first.clean).std() / (dose.projections - dose.clean).std()
    assert 8 < float(ratio) < 14


def test_no_inverse_crime_unless_it_is_asked_for():
    p = protocol()
    committed = simulate(water_disc(), [0], p, generator(), oversampling=1)
    avoided = simulate(water_disc(), [0], p, generator(), oversampling=2)
    projector = Projector(p.geometry, p.grid)
    crime = projector(committed.truth) * MU_WATER_PER_MM - committed.clean
    honest = projector(avoided.truth) * MU_WATER_PER_MM - avoided.clean
    assert float(crime.abs().max()) < 1e-5
    assert float(honest.abs().max()) > 1e-3
    torch.testing.assert_close(committed.truth, avoided.truth, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="oversampling"):
        simulate(water_disc(), [0], p, generator(), oversampling=0)
