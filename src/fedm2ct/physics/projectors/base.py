"""The small interface that every projector backend implements."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid

Footprint = Literal["joseph", "distance-driven"]
"""What a bin sees of a line of pixels: a point between two of them, or all that it covers."""
FOOTPRINTS: tuple[Footprint, ...] = ("joseph", "distance-driven")


class Backend(ABC):
    """The linear maps of one geometry and grid, on batches.

    Images are ``(batch, rows, columns)``, sinograms ``(batch, views, bins)``; float32 or float64,
    and float16 or bfloat16 where a backend says so. Each map returns a new tensor of its input's
    dtype and device and takes no part in autograd: `fedm2ct.physics.operators` does that.
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        self.geometry = geometry
        self.grid = grid

    @abstractmethod
    def project(self, image: Tensor, footprint: Footprint = "joseph") -> Tensor:
        """Line integrals in mm times the image's unit."""

    @abstractmethod
    def project_adjoint(self, sinogram: Tensor, footprint: Footprint = "joseph") -> Tensor:
        """Transpose of `project`."""

    @abstractmethod
    def backproject(self, sinogram: Tensor, weights: Tensor | None = None) -> Tensor:
        """Pixel-driven back-projection with the geometry's distance weight.

        ``weights``, of shape ``(views, bins)``, multiply every sinogram of the batch on the way.
        """

    @abstractmethod
    def backproject_adjoint(self, image: Tensor) -> Tensor:
        """Transpose of `backproject` without weights."""
