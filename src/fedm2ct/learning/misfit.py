r"""How far an image is from what was measured, and how to keep a part of that back.

A part that is kept back has noise of its own, so that an image made of the rest cannot have
learned it: the basis of training, and of choosing models, without a normal-dose image.
"""

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

    it is the mean over rays of ``(N / lambda - 1)^2 / v``, 1 for the true image but for `tau`. Its
    gradient in ``a`` is twice the quasi-score ``(N / lambda - 1) / v`` (Wedderburn 1974,
    doi 10.1093/biomet/61.3.439), linear in the counts: for counts that are independent of the image
    it has no bias at any dose, as the logarithm of counts has. The variance takes no gradient.

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
        return ((integrals - target).square() * weight).mean(dim=(1, 2, 3))


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
