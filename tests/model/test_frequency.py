"""Frequency bands: the transform against SciPy's, what is in which band, FBP at the start."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from fedm2ct.model.frequency import FrequencyNetwork, dct_matrix, split_bands


def test_the_matrix_is_orthonormal_and_scipy_s_transform() -> None:
    image = torch.randn(1, 1, 6, 9, generator=torch.Generator().manual_seed(0)).double()
    for n in (6, 9):
        c = dct_matrix(n, image)
        assert torch.allclose(c @ c.T, torch.eye(n, dtype=torch.float64), atol=1e-12)
    spectrum = dct_matrix(6, image) @ image[0, 0] @ dct_matrix(9, image).T
    assert np.allclose(spectrum, dctn(image[0, 0].numpy(), norm="ortho"), atol=1e-12)


def test_bands_are_those_of_scipy_and_add_up() -> None:
    image = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(1)).double()
    low, high = split_bands(image, 0.4)
    v, u = np.mgrid[:8, :12]
    mask = np.hypot(u, v) <= 0.4 * math.hypot(8, 12)
    assert 0 < mask.sum() < mask.size
    expected = idctn(
        dctn(image.numpy(), axes=(2, 3), norm="ortho") * mask, axes=(2, 3), norm="ortho"
    )
    assert np.allclose(low, expected, atol=1e-12)
    assert torch.allclose(low + high, image)


def test_a_constant_is_low_and_a_checkerboard_is_high() -> None:
    constant = torch.full((1, 1, 16, 16), 3.0)
    low, high = split_bands(constant)
    assert torch.allclose(low, constant, atol=1e-5) and high.abs().max() < 1e-5
    signs = 1.0 - 2.0 * (torch.arange(16) % 2)
    low, high = split_bands((signs * signs[:, None])[None, None])
    assert float(high.square().sum()) > 0.99 * 256


@pytest.mark.parametrize("name", ["unet", "redcnn", "resnet"])
def test_untrained_it_is_the_identity_and_each_band_learns(name: str) -> None:
    network = FrequencyNetwork(name, 2)
    image = torch.rand(2, 1, 16, 16)
    assert torch.allclose(network(image), image, atol=1e-6)
    network(image).square().sum().backward()
    more = FrequencyNetwork(name, 2, in_channels=2)
    for parameter in more.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    further = torch.rand(2, 1, 16, 16)
    seen = [more(torch.cat([image, beside], 1)) for beside in (further, further + 1)]
    assert seen[0].shape == image.shape and (seen[0] - seen[1]).abs().max() > 1e-3
    for part in (network.low, network.high):
        assert part.last.weight.grad.abs().max() > 0
