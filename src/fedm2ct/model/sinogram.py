"""The sinogram network of TS-iRadonMAP: a residual convolutional part and a learnable filter.

iRadonMAP (He et al. 2020, doi 10.1109/TMI.2020.2964266) filters each view with one fully
connected layer. Starting from cosine weights and the band-limited ramp is our own design.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedm2ct.model.precision import Convolution, ReducedPrecision
from fedm2ct.physics.analytic import cosine_weights, ramp_filter_matrix, redundancy_weights
from fedm2ct.physics.geometry import Geometry
from fedm2ct.physics.redundancy import completed_detector

FILTER_STEP = 0.03
"""Scale of the learned change of the filter, relative to the ramp's central value.

An optimiser like Adam moves every number by its learning rate. The filter has bins x bins of them,
whose changes add up along a view: without the scale, a rate that suits convolutions ruins it.
"""


class SinogramNetwork(ReducedPrecision):
    """Correct a sinogram, weight it as FBP does before its filter, and filter each view.

    At the start the correction is zero and the filter is the analytical one. Weights before the
    filter are the cosine of the fan angle and, for short scans, each ray's redundancy; a shifted
    detector is completed as in FBP, so that the result has the bins of `completed_detector`.
    """

    weights: Tensor
    ramp: Tensor

    def __init__(
        self, geometry: Geometry, width: int = 12, window: Literal["ramp", "hann"] = "ramp"
    ) -> None:
        super().__init__()
        self.correct = nn.Sequential(
            Convolution(1, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            Convolution(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            Convolution(width, 1, 3, padding=1),
        )
        for parameter in self.correct[-1].parameters():
            nn.init.zeros_(parameter)
        weights = redundancy_weights(geometry) * cosine_weights(geometry)
        self.register_buffer("weights", weights.float(), persistent=False)
        completed, left, right = completed_detector(geometry)
        self.padding = (left, right)
        ramp = ramp_filter_matrix(completed, window)
        self.scale = float(ramp.abs().max())
        self.register_buffer("ramp", (ramp / self.scale).float(), persistent=False)
        self.filter_change = nn.Parameter(torch.zeros(ramp.shape))

    def forward(self, sinogram: Tensor) -> Tensor:
        """Map line integrals ``(batch, 1, view, bin)`` to filtered ones."""
        with self.lowered(sinogram.device):
            correction = self.correct(sinogram)
        corrected = (sinogram + correction.float()) * self.weights
        completed = functional.pad(corrected, self.padding)
        kernel = (self.ramp + FILTER_STEP * self.filter_change) * self.scale
        return functional.linear(completed, kernel)
