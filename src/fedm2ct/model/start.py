"""The image that the networks of a TS-iRadonMAP start from, where it is not FBP.

An iterative reconstruction agrees with the measurement by its statistics, which no network that
sees FBP alone has learned from a few patients. Here it is not tuned: one setting for all sites,
stopped early; what it leaves, in noise and in contrast, is for the networks to correct.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.physics.total_variation import statistical_total_variation

Start = Literal["fbp", "sirt", "tv"]

SIRT_ITERATIONS = 60
TV_ITERATIONS = 80
TV_STRENGTH = 3e-5
_AT_ONCE = 8


@torch.no_grad()
def iterative(kind: Start, sinogram: Tensor, image: Tensor, protocol: Protocol) -> Tensor:
    """Reconstruct line integrals iteratively.

    Parameters
    ----------
    kind
        ``sirt`` or ``tv``.
    sinogram
        Dimensionless line integrals, shape ``(batch, 1, view, bin)``.
    image
        Their FBP, from which the total variation's iterations start.
    protocol
        Geometry, grid and dose.

    Returns
    -------
    Tensor
        Relative attenuation, of the shape of `image`. No gradient passes.
    """
    projector = _projector(protocol)
    if kind == "sirt":
        return torch.cat([sirt(p, projector, SIRT_ITERATIONS) for p in sinogram.split(_AT_ONCE)])
    pairs = zip(sinogram.split(_AT_ONCE), image.split(_AT_ONCE), strict=True)
    return torch.cat(
        [
            statistical_total_variation(p, start, projector, protocol, TV_STRENGTH, TV_ITERATIONS)
            for p, start in pairs
        ]
    )


@lru_cache(maxsize=16)
def _projector(protocol: Protocol) -> Projector:
    return Projector(protocol.geometry, protocol.grid)
