r"""How far an image is from what was measured, and how to keep a part of that back.

A part that is kept back has noise of its own, so that an image made of the rest cannot have
learned it: the basis of training, and of choosing models, without a normal-dose image.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, Geometry
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM

MODEL_ERROR = 0.02
"""Standard deviation of line integrals that no image on the grid explains: pixels are no object.

Beside it the noise of rays through air, 0.005 at 5e4 photons, would make edges all that counts.
"""


def counts_of(sinogram: Tensor, photons: float) -> Tensor:
    """Return the photon counts ``I0 exp(-p)`` that line integrals were taken from."""
    return photons * torch.exp(-sinogram)


class Misfit:
    r"""The distance of an image from measured counts, per ray in units of its variance.

    With ``a = A x``, ``lambda = I0 exp(-a)`` and the variance of a line integral

    .. math:: v = (\lambda + \sigma_e^2) / \lambda^2 + \tau^2,

    and ``r = (N / lambda - 1) / sqrt(v)``, it is the mean over rays of ``r R r``, 1 for the true
    image but for `tau`. Its gradient is linear in the counts, a quasi-score (Wedderburn 1974,
    doi 10.1093/biomet/61.3.439): for counts that are independent of the image it has no bias at any
    dose, as the logarithm of counts has. The variance takes no gradient.

    ``R`` is the ramp filter along the bins, scaled to 1 on its diagonal. Projecting damps an
    image's fine structure by 1 / frequency; the ramp undoes that, so that a pixel's error counts
    alike whether it is noise or a broad shade. Any such filter leaves the gradient without bias.

    Parameters
    ----------
    protocol
        Geometry, grid and dose.
    model_error
        ``tau``, what the grid cannot explain of a line integral.
    """

    def __init__(self, protocol: Protocol, model_error: float = MODEL_ERROR) -> None:
        self.protocol = protocol
        self.projector = Projector(protocol.geometry, protocol.grid)
        self.model_error = model_error
        self.ramp = ramp(protocol.geometry.n_bins)

    def project(self, image: Tensor) -> Tensor:
        """Return an image's line integrals (dimensionless)."""
        integrals: Tensor = self.projector(image) * MU_WATER_PER_MM
        return integrals

    def pulls(self, integrals: Tensor, counts: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return by how much each line integral should grow, and the weight of that.

        Parameters
        ----------
        integrals
            An image's line integrals, any shape.
        counts
            Measured counts, of the same shape.
        share
            Share of the dose that these counts are.
        """
        expected = share * counts_of(integrals, self.protocol.photons)
        electronic = share * self.protocol.electronic_noise**2
        variance = (expected + electronic) / expected.square() + self.model_error**2
        return 1 - counts / expected, 1 / variance

    def __call__(
        self, image: Tensor, counts: Tensor, views: slice = slice(None), share: float = 1.0
    ) -> Tensor:
        """Return the misfit of each image, shape ``(batch,)``.

        Parameters
        ----------
        image
            Relative attenuation, ``(batch, 1, row, column)``.
        counts
            Measured counts of all views, ``(batch, 1, view, bin)``.
        views
            The views that count.
        share
            Share of the dose that these counts are.
        """
        integrals = self.project(image)[:, :, views]
        with torch.no_grad():
            pull, weight = self.pulls(integrals, counts[:, :, views], share)
            target = integrals + pull
            scale = weight.sqrt()
        residual = (integrals - target) * scale
        return (residual * self.filtered(residual)).mean(dim=(1, 2, 3))

    def filtered(self, residual: Tensor) -> Tensor:
        """Return ``R r`` of residuals ``(..., view, bin)``."""
        return residual @ self.ramp.to(residual)


def ramp(bins: int) -> Tensor:
    """Return the band-limited ramp filter as a matrix, 1 on its diagonal, ``(bins, bins)``."""
    distance = (torch.arange(bins)[:, None] - torch.arange(bins)).double()
    odd = distance.abs() % 2 == 1
    off_diagonal = -4 / (math.pi * distance.where(odd, 1.0)).square()
    return off_diagonal.where(odd, 0.0) + torch.eye(bins, dtype=torch.float64)


def hold_out_views(sinogram: Tensor, first: int, fold: int) -> Tensor:
    """Replace every `fold`-th view, from `first`, by the mean of its neighbours.

    At an end of the arc the one neighbour stands in. What is returned does not depend on the views
    held out, and keeps the shape that a site's model is bound to.

    Parameters
    ----------
    sinogram
        Line integrals, ``(batch, 1, view, bin)``.
    first, fold
        Which views: ``first``, ``first + fold``, ...; `fold` is 2 or more.
    """
    views = sinogram.shape[2]
    held = torch.arange(first, views, fold, device=sinogram.device)
    before = torch.where(held > 0, held - 1, held + 1)
    after = torch.where(held < views - 1, held + 1, held - 1)
    changed = sinogram.clone()
    changed[:, :, held] = (sinogram[:, :, before] + sinogram[:, :, after]) / 2
    return changed


def subset_of_views(geometry: Geometry, first: int, fold: int) -> Geometry:
    """Return the geometry of every `fold`-th view, from `first`."""
    chosen = slice(first, None, fold)
    angles = geometry.angles_rad[chosen]
    if not isinstance(geometry, FanGeometry):
        return replace(geometry, angles_rad=angles)
    return replace(
        geometry,
        angles_rad=angles,
        source_angle_shift_rad=geometry.source_angle_shift_rad[chosen],
        source_radial_shift_mm=geometry.source_radial_shift_mm[chosen],
    )


def thin_counts(
    sinogram: Tensor, protocol: Protocol, share: float, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Split a measurement into two of less dose with uncorrelated noise.

    Each photon goes to the first part with probability `share`. For Poisson counts the parts are
    independent Poisson counts. Electronic noise would correlate them by ``q (1 - q) sigma^2``;
    normal noise of that variance, added to one part and taken from the other, undoes it.

    Parameters
    ----------
    sinogram
        Line integrals, any shape.
    protocol
        The dose.
    share
        ``q``, in (0, 1).
    draw
        The source of randomness, on the CPU.

    Returns
    -------
    tuple
        Line integrals of the first part, and counts of the second.
    """
    counts = counts_of(sinogram.cpu().double(), protocol.photons).round()
    first = torch.binomial(counts, torch.full_like(counts, share), generator=draw)
    spread = protocol.electronic_noise * (share * (1 - share)) ** 0.5
    if spread > 0:
        first += spread * torch.empty_like(counts).normal_(generator=draw)
    second = counts - first
    integrals = -torch.log(first.clamp(min=share) / (share * protocol.photons))
    return integrals.to(sinogram), second.to(sinogram)
