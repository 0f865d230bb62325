"""How noisy a protocol's images are, from the protocol alone."""

from functools import lru_cache

import torch

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.noise import inverse_variance
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.phantoms import ellipse_image, water_disc
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM

WATER_DISC_MM = 250.0


@lru_cache(maxsize=64)
def fbp_noise(protocol: Protocol) -> float:
    r"""Return the standard deviation of FBP's noise at the centre of a disc of water.

    .. math:: \sigma^2 = \sum_i w_i^2 \operatorname{var}(\hat p_i)

    with ``w`` the weights that FBP, which is linear, gives the rays in the pixel below and right of
    the isocentre, and the variance of `fedm2ct.physics.noise.inverse_variance` behind a disc of
    `WATER_DISC_MM`. Nothing is drawn at random.

    Parameters
    ----------
    protocol
        Geometry, grid and dose.

    Returns
    -------
    float
        Relative attenuation: 0.05 are 50 HU.
    """
    grid = protocol.grid
    disc = ellipse_image(water_disc(WATER_DISC_MM / 2), grid, supersampling=1).float()
    with torch.no_grad():
        rays = Projector(protocol.geometry, grid)(disc) * MU_WATER_PER_MM
    precision = inverse_variance(rays, protocol.photons, protocol.electronic_noise)
    with torch.enable_grad():
        nothing = torch.zeros_like(rays, requires_grad=True)
        centre = fbp(nothing, protocol.geometry, grid)[0, 0, grid.rows // 2, grid.columns // 2]
        (weights,) = torch.autograd.grad(centre, nothing)
    return float((weights.double().square() / precision.double()).sum().sqrt())
