"""Iterative reconstruction: SIRT."""

import torch
from torch import Tensor

from fedm2ct.physics.cone_operators import ConeProjector
from fedm2ct.physics.operators import Projector
from fedm2ct.units import MU_WATER_PER_MM


def sirt(
    sinogram: Tensor,
    projector: Projector | ConeProjector,
    iterations: int,
    nonnegative: bool = True,
    initial: Tensor | None = None,
) -> Tensor:
    r"""Reconstruct by the simultaneous iterative reconstruction technique.

    .. math:: x \leftarrow x + C A^T R\,(p / \mu_w - A x)

    with ``R`` and ``C`` the inverse row and column sums of ``A`` (0 where a ray misses the image
    or no ray meets a pixel): Gilbert, doi 10.1016/0022-5193(72)90180-4.

    Parameters
    ----------
    sinogram
        Dimensionless line integrals, shape ``(..., views, bins)``, or a cone beam's projections.
    projector
        The system ``A``.
    iterations
        Number of steps; 0 returns the start.
    nonnegative
        Set negative attenuation to zero after each step.
    initial
        Start image, or volume, of the projector's grid; zero by default.

    Returns
    -------
    Tensor
        Relative attenuation (air 0, water 1), shape ``(..., rows, columns)`` or, of a cone beam,
        ``(..., slices, rows, columns)``.

    Raises
    ------
    ValueError
        If ``iterations`` is negative.
    """
    if iterations < 0:
        raise ValueError(f"iterations must not be negative, got {iterations}")
    target = sinogram / MU_WATER_PER_MM
    rows = _inverse(projector(sinogram.new_ones(projector.grid.shape)))
    columns = _inverse(projector.adjoint(sinogram.new_ones(projector.geometry.shape)))
    if initial is None:
        image = sinogram.new_zeros(
            (*sinogram.shape[: -len(projector.geometry.shape)], *projector.grid.shape)
        )
    else:
        image = initial
    for _ in range(iterations):
        image = image + columns * projector.adjoint(rows * (target - projector(image)))
        if nonnegative:
            image = image.clamp(min=0.0)
    return image


def _inverse(sums: Tensor) -> Tensor:
    small = 1e-6 * float(sums.max())
    return torch.where(sums > small, 1.0 / sums.clamp(min=max(small, 1e-30)), 0.0)
