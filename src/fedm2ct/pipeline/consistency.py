"""Does an image explain what was measured? Its distance to the projections, beside the noise."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.data.simulate import PairedData
from fedm2ct.device import compute_device
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.noise import inverse_variance
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM, hu_to_relative


class Consistency:
    r"""Residuals of one site's test slices.

    .. math:: \rho(x) = \sqrt{\frac1n \sum_i \frac{(\mu_w (A x)_i - p_i)^2}{\mathrm{var}(p_i)}}

    with the variance of the dose model, so that noise alone has a residual of 1. The truth is not
    at 1 but a little off, for it is sampled more coarsely than the object that was measured: an
    image is compared with the truth's own residual.

    Parameters
    ----------
    data
        Projections, with and without noise, and their truth.
    protocol
        The protocol that they were simulated under.
    """

    @torch.no_grad()
    def __init__(self, data: PairedData, protocol: Protocol) -> None:
        self.projector = Projector(protocol.geometry, protocol.grid)
        device = compute_device()
        self.measured = data.projections.to(device)
        self.precision = inverse_variance(
            data.clean.to(device), protocol.photons, protocol.electronic_noise
        )
        self.of_truth = self.residual(data.truth)
        self.of_fbp = self.residual(fbp(self.measured, protocol.geometry, protocol.grid))

    @torch.no_grad()
    def residual(self, image: Tensor) -> NDArray[np.float64]:
        """Return the residual of each image ``(n, 1, row, column)`` in units of the noise."""
        projected = self.projector(image.to(self.measured.device)) * MU_WATER_PER_MM
        misfit = projected - self.measured
        squares: Tensor = (self.precision * misfit.square()).mean((1, 2, 3), dtype=torch.float64)
        residuals: NDArray[np.float64] = squares.sqrt().cpu().numpy()
        return residuals

    def scores(self, image_hu: NDArray[np.float32]) -> dict[str, list[float]]:
        """Return the residuals of HU ``(n, row, column)``: by noise, by FBP's, by the truth's."""
        image = hu_to_relative(torch.from_numpy(image_hu)[:, None], clip=False)
        found = self.residual(image)
        return {
            "residual": found.tolist(),
            "residual_to_fbp": (found / self.of_fbp).tolist(),
            "residual_to_truth": (found / self.of_truth).tolist(),
        }
