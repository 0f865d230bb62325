"""The CPU backend: numba kernels, cut over as many threads as torch is told to use."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors import kernels
from fedm2ct.physics.projectors.base import Backend
from fedm2ct.physics.projectors.pixels import pixel_table
from fedm2ct.physics.projectors.rays import ray_table


def _in_threads(kernel: Callable[..., None], count: int, *args: object) -> None:
    """Run ``kernel(begin, end, *args)`` over ``range(count)`` in torch's number of threads."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *args)
        return
    edges = [count * t // threads for t in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(kernel, edges[t], edges[t + 1], *args) for t in range(threads)]
        for job in jobs:
            job.result()


def _batch_last(batch: Tensor, pad: int) -> NDArray[np.floating]:
    """Turn ``(B, M, N)`` into a contiguous ``(M, N + 2 pad, B)`` array, zero-padded."""
    count, rows, columns = batch.shape
    array = np.zeros((rows, columns + 2 * pad, count), dtype=_dtype(batch))
    array[:, pad : pad + columns] = batch.detach().permute(1, 2, 0).numpy()
    return array


def _batch_first(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _dtype(tensor: Tensor) -> type[np.floating]:
    return np.float64 if tensor.dtype == torch.float64 else np.float32


class CpuBackend(Backend):
    """Joseph and pixel-driven kernels compiled by numba, for CPU tensors.

    Results do not depend on the number of threads (``torch.set_num_threads``).
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__(geometry, grid)
        rays = ray_table(geometry, grid)
        self._rays = (
            rays.by_row, rays.first, rays.slope, rays.length_mm, rays.start, rays.stop,
        )  # fmt: skip
        p = pixel_table(geometry, grid)
        self._pixels = (
            p.kind, p.cos, p.sin, p.x, p.y, p.source_mm, p.scale, p.first, p.bins, p.atan,
        )  # fmt: skip

    def project(self, image: Tensor) -> Tensor:  # noqa: D102
        lines = _batch_last(image, 1)
        columns = _batch_last(image.transpose(1, 2), 1)
        out = np.zeros((*self.geometry.shape, len(image)), dtype=lines.dtype)
        _in_threads(kernels.joseph_forward, self.geometry.n_views, lines, columns, self._rays, out)
        return _batch_first(out)

    def project_adjoint(self, sinogram: Tensor) -> Tensor:  # noqa: D102
        rays = _batch_last(sinogram, 0)
        rows, columns = self.grid.shape
        by_row = np.zeros((rows, columns + 2, len(sinogram)), dtype=rays.dtype)
        by_column = np.zeros((columns, rows + 2, len(sinogram)), dtype=rays.dtype)
        _in_threads(kernels.joseph_adjoint, rows, True, rays, self._rays, by_row)
        _in_threads(kernels.joseph_adjoint, columns, False, rays, self._rays, by_column)
        total = by_row[:, 1:-1] + by_column[:, 1:-1].transpose(1, 0, 2)
        return _batch_first(total)

    def backproject(self, sinogram: Tensor) -> Tensor:  # noqa: D102
        padded = _batch_last(sinogram, 1)
        out = np.zeros((*self.grid.shape, len(sinogram)), dtype=padded.dtype)
        _in_threads(kernels.pixel_forward, self.grid.rows, padded, self._pixels, out)
        return _batch_first(out)

    def backproject_adjoint(self, image: Tensor) -> Tensor:  # noqa: D102
        pixels = _batch_last(image, 0)
        views, bins = self.geometry.shape
        out = np.zeros((views, bins + 2, len(image)), dtype=pixels.dtype)
        _in_threads(kernels.pixel_adjoint, views, pixels, self._pixels, out)
        return _batch_first(out[:, 1:-1])
