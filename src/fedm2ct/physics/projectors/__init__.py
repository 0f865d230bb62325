"""Projector backends behind one small interface: `Backend`."""

from functools import lru_cache
from importlib.util import find_spec

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import FOOTPRINTS, Backend, Footprint

__all__ = ["BACKENDS", "FOOTPRINTS", "Backend", "Footprint", "get_backend", "has_triton"]

BACKENDS = ("cpu", "torch", "triton")
"""Numba kernels for CPU tensors, plain PyTorch for any device, Triton kernels for CUDA tensors."""


def has_triton() -> bool:
    """Say whether the package that the triton backend needs is installed."""
    return find_spec("triton") is not None


@lru_cache(maxsize=16)
def get_backend(name: str, geometry: Geometry, grid: ImageGrid) -> Backend:
    """Return the named backend for a geometry and a grid, made once and kept.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If the backend's package is not installed.
    """
    if name == "cpu":
        from fedm2ct.physics.projectors.cpu import CpuBackend

        return CpuBackend(geometry, grid)
    if name == "torch":
        from fedm2ct.physics.projectors.reference import TorchBackend

        return TorchBackend(geometry, grid)
    if name == "triton":
        if not has_triton():
            raise ImportError(
                "the triton backend needs the package triton, which is not installed "
                "(CUDA builds of PyTorch for Linux bring it); use backend='torch'"
            )
        from fedm2ct.physics.projectors.triton_backend import TritonBackend

        return TritonBackend(geometry, grid)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or auto, not {name!r}")
