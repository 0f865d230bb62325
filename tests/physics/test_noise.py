import math

import pytest
import torch

from fedm2ct.physics.noise import add_dose_noise, inverse_variance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mean_and_variance_follow_the_dose():
    p = torch.full((200_000,), 2.0)
    photons, sigma = 1e4, 15.0
    noisy = add_dose_noise(p, photons, sigma, generator())
    counts = photons * math.exp(-2.0)
    variance = 1 / counts + sigma**2 / counts**2
    assert float(noisy.var()) == pytest.approx(variance, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(2.0 + variance / 2, abs=4e-4)


def test_counts_are_floored():
    noisy = add_dose_noise(torch.full((1000,), 50.0), 1e4, 5.0, generator(), floor=2.0)
    assert noisy.isfinite().all()
    assert float(noisy.max()) == pytest.approx(math.log(1e4 / 2.0))


def test_one_seed_gives_one_measurement():
    p = torch.linspace(0, 5, 100)
    one, two, other = (add_dose_noise(p, 1e4, 5.0, generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.dtype == torch.float32


def test_no_electronic_noise_leaves_whole_counts():
    noisy = add_dose_noise(torch.full((1000,), 3.0).double(), 500.0, 0.0, generator())
    counts = 500.0 * torch.exp(-noisy)
    torch.testing.assert_close(counts, counts.round())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photons": 0.0}, "photons"),
        ({"photons": math.nan}, "photons"),
        ({"electronic_noise": -1.0}, "electronic_noise"),
        ({"floor": 0.0}, "floor"),
        ({"line_integrals": torch.tensor([math.nan])}, "finite"),
    ],
)
def test_refuses_impossible_doses(change, message):
    arguments = {
        "line_integrals": torch.ones(2),
        "photons": 10.0,
        "electronic_noise": 0.0,
        "generator": generator(),
    }
    with pytest.raises(ValueError, match=message):
        add_dose_noise(**{**arguments, **change})


@pytest.mark.parametrize(("photons", "sigma"), [(1e4, 0.0), (2e4, 20.0)])
def test_the_inverse_variance_is_that_of_many_measurements(photons, sigma):
    clean = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    measured = add_dose_noise(clean.expand(40_000, 3), photons, sigma, generator)
    weights = inverse_variance(clean, photons, sigma)
    torch.testing.assert_close(measured.var(0) * weights, torch.ones(3).double(), atol=0.03, rtol=0)
