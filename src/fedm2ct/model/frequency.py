"""An image network for each of two frequency bands, after FedFDD (Chen et al., MIDL 2024)."""

import math

import torch
from torch import Tensor, nn

from fedm2ct.model.image import IMAGE_NETWORKS, Builder, build_image_network

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

    The sum of both is the result; untrained, that is the image itself. Further channels, which
    are not corrected, are seen by both.
    """

    def __init__(self, name: str, width: int, in_channels: int = 1) -> None:
        super().__init__()
        self.low = build_image_network(name, 1 + in_channels, width)
        self.high = build_image_network(name, 1 + in_channels, width)

    def forward(self, image: Tensor) -> Tensor:
        """Return the first channel of ``(batch, in_channels, row, column)``, corrected."""
        low, high = split_bands(image[:, :1])
        corrected: Tensor = self.low(torch.cat([low, image], dim=1))
        corrected = corrected + self.high(torch.cat([high, image], dim=1))
        return corrected


PRIVATE_NETWORKS: dict[str, Builder[nn.Module]] = {
    **IMAGE_NETWORKS,
    "two-band": lambda in_channels, width: FrequencyNetwork("unet", width, in_channels),
}
"""What a private image network may be, by name; no prompt reaches it."""
