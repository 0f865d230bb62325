"""An image network for each of two frequency bands, after FedFDD (Chen et al., MIDL 2024)."""

import math

import torch
from torch import Tensor, nn

from fedm2ct.model.image import build_image_network

CUTOFF = 0.465
"""Radius of the low band in the plane of DCT indices, relative to its diagonal.

The middle of 0.43 to 0.50, over which the published code draws it anew for each image. The code
also moves single coefficients to the low band at random; that is left out here, for a
reconstruction should not depend on chance.
"""


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II as a matrix ``(size, size)``: rows are frequencies."""
    index = torch.arange(size, device=like.device, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    matrix[0] *= math.sqrt(0.5)
    return matrix.to(like.dtype)


def split_bands(image: Tensor, cutoff: float = CUTOFF) -> tuple[Tensor, Tensor]:
    """Return the low and the high band of images ``(batch, channel, row, column)``; sum: image."""
    rows, columns = image.shape[-2:]
    vertical, horizontal = dct_matrix(rows, image), dct_matrix(columns, image)
    v = torch.arange(rows, device=image.device)[:, None]
    u = torch.arange(columns, device=image.device)
    inside = (u**2 + v**2).double().sqrt() <= cutoff * math.hypot(rows, columns)
    spectrum = vertical @ image @ horizontal.T
    low = vertical.T @ (spectrum * inside) @ horizontal
    return low, image - low


class FrequencyNetwork(nn.Module):
    """Corrects each band by a network of its own, which sees the whole image beside it.

    The sum of both is the result; untrained, that is the image itself.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.low = build_image_network(name, 2, width)
        self.high = build_image_network(name, 2, width)

    def forward(self, image: Tensor) -> Tensor:
        """Correct ``(batch, 1, row, column)``."""
        low, high = split_bands(image)
        corrected: Tensor = self.low(torch.cat([low, image], dim=1))
        corrected = corrected + self.high(torch.cat([high, image], dim=1))
        return corrected
