"""Learnable back-projection: one weight for each view and detector bin."""

import torch
from torch import Tensor, nn

from fedm2ct.physics.analytic import view_bin_weights
from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.operators import WeightedBackprojector
from fedm2ct.physics.redundancy import completed_detector
from fedm2ct.units import MU_WATER_PER_MM

WEIGHT_STEP = 0.1
"""Scale of the learned relative change of a weight; see `fedm2ct.model.sinogram.FILTER_STEP`."""


class LearnableBackprojection(nn.Module):
    """Weight a filtered sinogram by view x bin, then back-project it onto the site's grid.

    The learnable numbers are relative changes of the analytical weights (angular steps), zero at
    the start; a shifted detector is completed first, as in `SinogramNetwork`. After iRadonMAP
    (doi 10.1109/TMI.2020.2964266), whose weights are per pixel and view; the factoring into
    view x bin is our own design.
    """

    weights: Tensor

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__()
        completed, _, _ = completed_detector(geometry)
        self.backproject = WeightedBackprojector(completed, grid)
        weights = view_bin_weights(completed) / MU_WATER_PER_MM
        self.register_buffer("weights", weights.float(), persistent=False)
        self.weight_change = nn.Parameter(torch.zeros(completed.shape))

    def forward(self, filtered: Tensor) -> Tensor:
        """Map ``(batch, 1, view, bin)`` to relative attenuation ``(batch, 1, row, column)``."""
        weights = self.weights * (1 + WEIGHT_STEP * self.weight_change)
        image: Tensor = self.backproject(filtered, weights)
        return image
