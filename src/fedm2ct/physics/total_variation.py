r"""Total-variation reconstruction by the primal-dual hybrid gradient method.

.. math:: \min_{0 \le x \le u}\; \frac{1}{2 \|A\|^2} \| A x - p / \mu_w \|_W^2
          + \lambda \sum_j |\nabla x|_j

with ``W`` the rays' weights, the isotropic total variation of forward differences between pixels,
and ``u`` the densest value that a CT image holds. Dividing by the projector's squared norm makes
both terms ones in the image's own unit, so that a :math:`\lambda` means much the same for any
number of views and any size of bins.

Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to
imaging", doi 10.1007/s10851-010-0251-1; for CT, Sidky, Jorgensen and Pan,
doi 10.1088/0031-9155/57/10/3065.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from fedm2ct.physics.noise import statistical_weights
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import HU_MAX, MU_WATER_PER_MM

DENSEST = 1.0 + HU_MAX / 1000.0
"""The bound ``u``, relative attenuation. It is far from any tissue; without it there is no gap."""

_GRADIENT_SCALE = 1 / math.sqrt(8)  # forward differences in two dimensions: norm below sqrt(8)
_CHECK_EVERY = 10
_CPU = torch.device("cpu")
_STATISTICAL_BALANCE = 200.0
"""With statistical weights: 150 to 500 came nearest to the minimum at the demo's sites."""


@dataclass(frozen=True)
class Minimum:
    """Where the minimisation has come to.

    Attributes
    ----------
    image
        Relative attenuation, shape ``(..., rows, columns)``.
    objective
        The objective of each image, shape ``(...)``, float64.
    gap
        How far each objective is at most above the minimum, shape ``(...)``, float64.
    iterations
        Iterations that were made.
    """

    image: Tensor
    objective: Tensor
    gap: Tensor
    iterations: int


def total_variation(
    sinogram: Tensor,
    projector: Projector,
    strength: float,
    iterations: int,
    *,
    tolerance: float = 0.0,
    weights: Tensor | None = None,
    nonnegative: bool = True,
    initial: Tensor | None = None,
    balance: float = 20.0,
) -> Minimum:
    r"""Minimise data misfit plus total variation, all images of a batch at once.

    Parameters
    ----------
    sinogram
        Dimensionless line integrals, shape ``(..., views, bins)``.
    projector
        The system ``A``, in mm.
    strength
        :math:`\lambda`, in units of relative attenuation; 0 is weighted least squares.
    iterations
        At most so many iterations, each one projection and one back-projection.
    tolerance
        Stop when the primal-dual gap of every image is below this part of its objective.
    weights
        ``W``, not negative, of a shape that broadcasts to the sinogram's; 1 by default. A weight
        of 0 leaves a ray out.
    nonnegative
        Keep the attenuation from 0 to `DENSEST`, else from minus to plus `DENSEST`.
    initial
        Image to start from; zero by default.
    balance
        Square root of the primal over the dual step. It changes the way to the minimum, not the
        minimum: the image is near 1 and the dual variable, a weighted residual, near 0, so that
        equal steps waste iterations. The smaller weights and strength, the larger it should be.

    Raises
    ------
    ValueError
        If strength, iterations, tolerance or a weight are negative, or the balance is not positive.
    """
    if not balance > 0:
        raise ValueError("total_variation: balance must be positive")
    if strength < 0 or iterations < 0 or tolerance < 0:
        raise ValueError("total_variation: strength, iterations and tolerance must not be negative")
    if weights is not None and bool((weights < 0).any()):
        raise ValueError("total_variation: weights must not be negative")
    lowest = 0.0 if nonnegative else -DENSEST
    problem = _Problem(sinogram, projector, strength, weights, lowest)
    return _minimise(problem, problem.start(initial), iterations, tolerance, balance)


def statistical_total_variation(
    sinogram: Tensor,
    image: Tensor,
    projector: Projector,
    protocol: Protocol,
    strength: float,
    iterations: int,
) -> Tensor:
    """Return `total_variation`'s image with the rays weighted by the protocol's dose model.

    Parameters
    ----------
    sinogram
        Dimensionless line integrals, shape ``(..., views, bins)``.
    image
        Where to start, their FBP.
    projector, protocol
        The system, and the photons and electronic noise of its acquisition.
    strength, iterations
        As for `total_variation`.
    """
    return total_variation(
        sinogram,
        projector,
        strength,
        iterations,
        weights=statistical_weights(sinogram, protocol.photons, protocol.electronic_noise),
        initial=image,
        balance=_STATISTICAL_BALANCE,
    ).image


@lru_cache(maxsize=16)
def operator_norm(projector: Projector, iterations: int = 30, device: torch.device = _CPU) -> float:
    """Return the projector's largest singular value in mm, by power iteration.

    From an image of ones: the matrix has no negative element, so its leading singular vector has
    none either (Perron and Frobenius) and the start is not orthogonal to it. The value is reached
    from below. It is kept for a projector that comes again on a device, as with the next batch.
    """
    image = torch.ones(projector.grid.shape, device=device)
    largest = image.norm()
    with torch.no_grad():
        for _ in range(iterations):
            image = projector.adjoint(projector(image / image.norm()))
            largest = image.norm()
    return math.sqrt(float(largest))


class _Problem:
    """The problem, scaled so that both linear maps have a norm of at most 1."""

    def __init__(
        self,
        sinogram: Tensor,
        projector: Projector,
        strength: float,
        weights: Tensor | None,
        lowest: float,
    ) -> None:
        self.projector, self.lowest = projector, lowest
        norm = operator_norm(projector, device=sinogram.device)
        self.norm = 1.01 * norm  # power iteration comes from below
        self.target = sinogram / (MU_WATER_PER_MM * self.norm)
        self.weights = sinogram.new_ones(()) if weights is None else weights.to(sinogram)
        self.radius = strength / _GRADIENT_SCALE
        self.batch = sinogram.shape[:-2]

    def start(self, initial: Tensor | None) -> Tensor:
        """Return the first image, within bounds."""
        shape = (*self.batch, *self.projector.grid.shape)
        image = self.target.new_zeros(shape) if initial is None else initial.expand(shape)
        return self.bounded(image)

    def bounded(self, image: Tensor) -> Tensor:
        """Return the image cut to its bounds."""
        return image.clamp(self.lowest, DENSEST)

    def rays(self, image: Tensor) -> Tensor:
        """Return the scaled projection."""
        projected: Tensor = self.projector(image) / self.norm
        return projected

    def transposed(self, rays: Tensor, slopes: Tensor) -> Tensor:
        """Return the transpose of both maps, summed."""
        return self.projector.adjoint(rays) / self.norm + _gradient_transposed(slopes)

    def ray_step(self, rays: Tensor, step: float) -> Tensor:
        """Return the proximal step of the data term's conjugate."""
        return self.weights * (rays - step * self.target) / (self.weights + step)

    def slope_step(self, slopes: Tensor) -> Tensor:
        """Return the slopes cut to the ball of the total variation's conjugate."""
        length = slopes.square().sum(0).sqrt()
        return slopes * (self.radius / length.clamp(min=max(self.radius, 1e-30)))

    def objective(self, projected: Tensor, image: Tensor) -> Tensor:
        """Return the objective of each image, whose scaled projection is known."""
        misfit = self.weights * (projected - self.target).square()
        variation = _gradient(image).square().sum(0).sqrt()
        return 0.5 * _sum(misfit) + self.radius * _sum(variation)

    def dual_objective(self, rays: Tensor, transposed: Tensor) -> Tensor:
        """Return the dual objective, never above the minimum of the objective."""
        energy = torch.where(self.weights > 0, rays.square() / self.weights.clamp(min=1e-30), 0.0)
        bounds = torch.maximum(-self.lowest * transposed, -DENSEST * transposed)
        return -_sum(0.5 * energy) - _sum(rays.double() * self.target) - _sum(bounds)


def _minimise(
    problem: _Problem, image: Tensor, iterations: int, tolerance: float, balance: float
) -> Minimum:
    step_image = 0.99 * balance / math.sqrt(2)
    step_dual = 0.99 / (balance * math.sqrt(2))
    projected, slopes_of_image = problem.rays(image), _gradient(image)
    rays, slopes = torch.zeros_like(projected), torch.zeros_like(slopes_of_image)
    transposed = torch.zeros_like(image)
    done = 0
    while done < iterations:
        done += 1
        image = problem.bounded(image - step_image * transposed)
        # the maps are linear: what the extrapolated image maps to needs no pass of its own
        before, slopes_before = projected, slopes_of_image
        projected, slopes_of_image = problem.rays(image), _gradient(image)
        rays = problem.ray_step(rays + step_dual * (2 * projected - before), step_dual)
        slopes = problem.slope_step(slopes + step_dual * (2 * slopes_of_image - slopes_before))
        transposed = problem.transposed(rays, slopes)
        if tolerance > 0 and done % _CHECK_EVERY == 0:
            objective = problem.objective(projected, image)
            gap = objective - problem.dual_objective(rays, transposed)
            if bool((gap <= tolerance * objective).all()):
                break
    objective = problem.objective(projected, image)
    gap = objective - problem.dual_objective(rays, transposed)
    return Minimum(image, objective, gap, done)


def _sum(values: Tensor) -> Tensor:
    return values.sum((-2, -1), dtype=torch.float64)


def _gradient(image: Tensor) -> Tensor:
    """Return scaled forward differences down and across, 0 at the far edge; ``(2, ...)``."""
    down = functional.pad(image.diff(dim=-2), (0, 0, 0, 1))
    across = functional.pad(image.diff(dim=-1), (0, 1))
    return torch.stack([down, across]) * _GRADIENT_SCALE


def _gradient_transposed(slopes: Tensor) -> Tensor:
    """Return the transpose of `_gradient`, for slopes that are 0 at the far edge."""
    down = functional.pad(slopes[0], (0, 0, 1, 0)).diff(dim=-2)
    across = functional.pad(slopes[1], (1, 0)).diff(dim=-1)
    return -(down + across) * _GRADIENT_SCALE
