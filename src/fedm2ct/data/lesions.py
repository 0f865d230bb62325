"""Small low-contrast discs planted into simulated acquisitions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedm2ct.data.simulate import PairedData, project_finely
from fedm2ct.physics.geometry import ImageGrid
from fedm2ct.physics.phantoms import Ellipse, ellipse_image
from fedm2ct.physics.protocols import Protocol


@dataclass(frozen=True)
class Lesion:
    """A disc that adds ``contrast_hu`` to the tissue that it lies in.

    ``slice_index`` counts the slices of the acquisition; the centre is in mm from the image's, x
    to the right and y up.
    """

    slice_index: int
    x_mm: float
    y_mm: float
    diameter_mm: float
    contrast_hu: float


def coverage(lesion: Lesion, grid: ImageGrid) -> torch.Tensor:
    """Return how much of each pixel a lesion covers, shape ``(rows, columns)``, float64."""
    radius = lesion.diameter_mm / 2
    return ellipse_image([Ellipse(lesion.x_mm, lesion.y_mm, radius, radius, 0.0, 1.0)], grid)[0, 0]


def plant(
    data: PairedData, lesions: Sequence[Lesion], protocol: Protocol, oversampling: int = 2
) -> PairedData:
    """Return the acquisition as it would be with lesions, of the same noise.

    Line integrals are linear in the object, so the lesions' own are added, made as
    `fedm2ct.data.simulate` makes an object's: finely sampled, several rays a bin. The noise of each
    ray stays what it was in the line integral; that a lesion of 40 HU and 10 mm also takes 0.8 % of
    the photons is left out, for noise drawn anew would differ in every ray.

    Parameters
    ----------
    data
        An acquisition.
    lesions
        Inside the body: attenuation is not kept from going below that of air.
    protocol
        The protocol of the acquisition.
    oversampling
        As in the simulation of `data`.
    """
    fine_grid = protocol.grid.refined(oversampling)
    fine = torch.zeros(len(data), 1, *fine_grid.shape)
    for lesion in lesions:
        disc = coverage(lesion, fine_grid) * (lesion.contrast_hu / 1000.0)
        fine[lesion.slice_index, 0] += disc.float()
    added = project_finely(fine, protocol, oversampling)
    truth = data.truth + torch.nn.functional.avg_pool2d(fine, oversampling)
    return PairedData(data.projections + added, truth, data.clean + added)
