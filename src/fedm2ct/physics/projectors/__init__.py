"""Projector backends behind one small interface: `Backend`."""

from functools import lru_cache

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import FOOTPRINTS, Backend, Footprint

__all__ = ["BACKENDS", "FOOTPRINTS", "Backend", "Footprint", "get_backend"]

BACKENDS = ("cpu", "torch")
"""Names of the backends: numba kernels for CPU tensors, plain PyTorch for any device."""


@lru_cache(maxsize=16)
def get_backend(name: str, geometry: Geometry, grid: ImageGrid) -> Backend:
    """Return the named backend for a geometry and a grid, made once and kept.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    """
    if name == "cpu":
        from fedm2ct.physics.projectors.cpu import CpuBackend

        return CpuBackend(geometry, grid)
    if name == "torch":
        from fedm2ct.physics.projectors.reference import TorchBackend

        return TorchBackend(geometry, grid)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or auto, not {name!r}")
