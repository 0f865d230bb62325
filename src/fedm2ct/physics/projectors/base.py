"""The small interface that every projector backend implements."""

from abc import ABC, abstractmethod

from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid


class Backend(ABC):
    """The four linear maps of one geometry and grid, on batches.

    Images are ``(batch, rows, columns)``, sinograms ``(batch, views, bins)``; float32 or float64.
    Each map returns a new tensor of its input's dtype and device and takes no part in autograd:
    `fedm2ct.physics.operators` does that.
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        self.geometry = geometry
        self.grid = grid

    @abstractmethod
    def project(self, image: Tensor) -> Tensor:
        """Line integrals by Joseph's method, in mm times the image's unit."""

    @abstractmethod
    def project_adjoint(self, sinogram: Tensor) -> Tensor:
        """Transpose of `project`."""

    @abstractmethod
    def backproject(self, sinogram: Tensor) -> Tensor:
        """Pixel-driven back-projection with the geometry's distance weight."""

    @abstractmethod
    def backproject_adjoint(self, image: Tensor) -> Tensor:
        """Transpose of `backproject`."""
