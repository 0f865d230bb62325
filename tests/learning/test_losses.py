import numpy as np
import pytest
import torch

from fedm2ct.evaluation.metrics import psnr
from fedm2ct.learning.losses import DISTANCES, charbonnier, l2, validation_psnr
from fedm2ct.units import hu_to_relative, relative_to_hu

TRUTH = torch.ones(2, 1, 2, 2)


def test_l2_by_hand():
    image = TRUTH.clone()
    image[0, 0, 0, 0] += 0.4  # one of eight pixels, 400 HU off
    assert float(l2(image, TRUTH)) == pytest.approx(100 * 0.4**2 / 8, rel=1e-5)


def test_charbonnier_by_hand():
    image = TRUTH + 0.1
    assert float(charbonnier(image, TRUTH)) == pytest.approx(10 * (0.1**2 + 0.01**2) ** 0.5)
    assert float(charbonnier(TRUTH, TRUTH)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_is_about_one_at_100_hu(name):
    assert float(DISTANCES[name](TRUTH + 0.1, TRUTH)) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_has_a_finite_gradient_everywhere(name):
    image = TRUTH.clone().requires_grad_()
    DISTANCES[name](image, TRUTH).backward()
    assert torch.isfinite(image.grad).all()


def test_validation_psnr_by_hand():
    # 10 HU off everywhere in one slice, 100 HU in the other: 20 log10(4095 / d), averaged
    image = TRUTH + torch.tensor([0.01, 0.1]).reshape(2, 1, 1, 1)
    expected = (20 * np.log10(409.5) + 20 * np.log10(40.95)) / 2
    assert validation_psnr(image, TRUTH) == pytest.approx(expected, abs=1e-3)


def test_validation_psnr_is_the_psnr_of_the_evaluation():
    """What chooses the best model and what is reported must be the same number."""
    rng = np.random.default_rng(4)
    truth = hu_to_relative(torch.from_numpy(rng.uniform(-1024, 3400, (3, 1, 9, 9))).float())
    image = truth + torch.from_numpy(rng.normal(0, 0.2, truth.shape)).float()
    hu = [relative_to_hu(x[:, 0]).numpy() for x in (image, truth)]
    assert hu[0].min() < -1024 and hu[0].max() > 3071  # both ends are clipped
    assert validation_psnr(image, truth) == pytest.approx(psnr(*hu).mean(), abs=1e-3)
