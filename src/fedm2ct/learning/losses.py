"""Distances between images in relative attenuation, and the PSNR that validation uses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fedm2ct.units import HU_MAX, HU_MIN

Distance = Callable[[Tensor, Tensor], Tensor]

_RANGE = (HU_MAX - HU_MIN) / 1000.0
_BOTTOM, _TOP = 1.0 + HU_MIN / 1000.0, 1.0 + HU_MAX / 1000.0
_CHARBONNIER_EPSILON = 0.01


def l2(image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared difference, scaled to be near 1 for a difference of 100 HU."""
    return functional.mse_loss(image, truth) * 100.0


def charbonnier(image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of sqrt(d^2 + eps^2), eps 10 HU; near 1 for a difference of 100 HU.

    Charbonnier et al. 1994, doi 10.1109/ICIP.1994.413553.
    """
    squared = (image - truth).square() + _CHARBONNIER_EPSILON**2
    return squared.sqrt().mean() * 10.0


DISTANCES: dict[str, Distance] = {"l2": l2, "charbonnier": charbonnier}


def validation_psnr(image: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR over slices in dB, range [-1024, 3071] HU; values are clipped to it."""
    difference = image.clamp(_BOTTOM, _TOP) - truth.clamp(_BOTTOM, _TOP)
    mse = difference.square().mean(dim=(1, 2, 3)).clamp(min=1e-12)
    return float((20 * math.log10(_RANGE) - 10 * torch.log10(mse)).mean())
