"""The CPU backend: numba kernels on lanes, cut over as many threads as torch is told to use."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import Backend, Footprint
from fedm2ct.physics.projectors.lanes import Array, Lanes, make_lanes, pack_sinogram
from fedm2ct.physics.projectors.passes import PixelPass, RayPass, pixel_pass, ray_passes
from fedm2ct.physics.projectors.pixel_kernels import pixel_kernels
from fedm2ct.physics.projectors.ray_kernels import ray_kernels
from fedm2ct.physics.projectors.rays import check_source_outside
from fedm2ct.physics.projectors.symmetry import MAX_LANES
from fedm2ct.physics.projectors.threads import in_threads

_WIDTHS = (8, MAX_LANES)
"""Numbers of lanes that kernels are compiled for; more kinds would only take longer to compile."""
_BLOCK_BYTES = 1 << 19
"""Size of a packed block of image rows: half of a common second-level cache."""
_PIXEL_ROWS = 8
"""Rows that pixel-driven back-projection adds to before it goes on to the next view."""


class CpuBackend(Backend):
    """Both footprints and the pixel-driven back-projector, compiled by numba, for CPU tensors.

    Results do not depend on the number of threads (``torch.set_num_threads``).
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__(geometry, grid)
        check_source_outside(geometry, grid)
        self._by_ray: dict[tuple[int, Footprint], tuple[RayPass, ...]] = {}
        self._by_pixel: dict[int, PixelPass] = {}

    def project(self, image: Tensor, footprint: Footprint = "joseph") -> Tensor:
        sinogram = image.new_empty(len(image), *self.geometry.shape)
        for one in self._ray_passes(len(image), footprint):
            for part, lanes, rows in _chunks(one, one.shape, image):
                packed = _zeros((*one.rays.start.shape, _width(lanes)), image)
                forward, _ = ray_kernels(_width(lanes), footprint == "joseph")
                in_threads(
                    forward, len(packed), _array(image[part]), rows, lanes, one.rays,
                    one.views, one.shape, packed, sinogram[part].numpy(), pieces=1,
                )  # fmt: skip
        return sinogram

    def project_adjoint(self, sinogram: Tensor, footprint: Footprint = "joseph") -> Tensor:
        image = torch.from_numpy(_zeros((len(sinogram), *self.grid.shape), sinogram))
        for one in self._ray_passes(len(sinogram), footprint):
            for part, lanes, rows in _chunks(one, one.shape, sinogram):
                packed = sinogram.new_empty(*one.rays.start.shape, _width(lanes)).numpy()
                nothing = np.empty((0, 0), packed.dtype)
                in_threads(
                    pack_sinogram, len(packed), _array(sinogram[part]), one.rays.lengths, nothing,
                    one.views, lanes, packed,
                )  # fmt: skip
                turned = _zeros(image[part].transpose(1, 2).shape, image)
                _, transposed = ray_kernels(_width(lanes), footprint == "joseph")
                in_threads(
                    transposed, _pairs(one.shape, rows), packed, rows, lanes, one.rays, one.shape,
                    image[part].numpy(), turned,
                )  # fmt: skip
                _add_turned(image[part].numpy(), turned, lanes)
        return image

    def backproject(self, sinogram: Tensor, weights: Tensor | None = None) -> Tensor:
        one, bins = self._pixel_pass(len(sinogram)), self.geometry.n_bins
        image = torch.from_numpy(_zeros((len(sinogram), *self.grid.shape), sinogram))
        factors = sinogram.new_empty(0, 0) if weights is None else weights.to(sinogram.dtype)
        for part, lanes, rows in _chunks(one, self.grid.shape, sinogram):
            rows = min(rows, _PIXEL_ROWS)
            packed = sinogram.new_empty(len(one.views.views), bins + 2, _width(lanes)).numpy()
            nothing = np.empty((0, 0))
            in_threads(
                pack_sinogram, len(packed), _array(sinogram[part]), nothing, _array(factors),
                one.views, lanes, packed,
            )  # fmt: skip
            turned = _zeros(image[part].transpose(1, 2).shape, image)
            forward, _ = pixel_kernels(_width(lanes), one.kind)
            in_threads(
                forward, _pairs(self.grid.shape, rows), packed, rows, lanes, one.pixels,
                image[part].numpy(), turned,
            )  # fmt: skip
            _add_turned(image[part].numpy(), turned, lanes)
        return image

    def backproject_adjoint(self, image: Tensor) -> Tensor:
        one, bins = self._pixel_pass(len(image)), self.geometry.n_bins
        sinogram = image.new_empty(len(image), *self.geometry.shape)
        for part, lanes, rows in _chunks(one, self.grid.shape, image):
            packed = _zeros((len(one.views.views), bins + 2, _width(lanes)), image)
            _, transposed = pixel_kernels(_width(lanes), one.kind)
            in_threads(
                transposed, len(packed), _array(image[part]), rows, lanes, one.pixels,
                one.views, packed, sinogram[part].numpy(), pieces=1,
            )  # fmt: skip
        return sinogram

    def _ray_passes(self, batch: int, footprint: Footprint) -> tuple[RayPass, ...]:
        key = min(batch, MAX_LANES), footprint
        if key not in self._by_ray:
            self._by_ray[key] = ray_passes(self.geometry, self.grid, *key)
        return self._by_ray[key]

    def _pixel_pass(self, batch: int) -> PixelPass:
        key = min(batch, MAX_LANES)
        if key not in self._by_pixel:
            self._by_pixel[key] = pixel_pass(self.geometry, self.grid, key)
        return self._by_pixel[key]


def _chunks(
    one: RayPass | PixelPass, shape: tuple[int, int], batch: Tensor
) -> Iterator[tuple[slice, Lanes, int]]:
    """Yield what is worked on together: images, their lanes, and how many rows make a block."""
    step = max(1, MAX_LANES // len(one.elements))
    for begin in range(0, len(batch), step):
        count = min(step, len(batch) - begin)
        width = next(w for w in _WIDTHS if w >= count * len(one.elements))
        rows = _BLOCK_BYTES // ((shape[1] + 2) * width * batch.element_size())
        lanes = make_lanes(one.elements, one.slots, count, width)
        yield slice(begin, begin + count), lanes, max(1, min(shape[0], rows))


def _zeros(shape: Sequence[int], like: Tensor) -> Array:
    """Return zeros of a tensor's dtype.

    By numpy: after a parallel operation torch's own threads stay busy waiting for the next one
    for some milliseconds, on the very processors that the kernels' threads are to run on.
    """
    return np.zeros(shape, like.numpy().dtype)


def _add_turned(images: Array, turned: Array, lanes: Lanes) -> None:
    """Add what transposed lanes have summed, if there are any; not by torch, as in `_zeros`."""
    if lanes.transposed.any():
        images += turned.transpose(0, 2, 1)


def _width(lanes: Lanes) -> int:
    return len(lanes.image)


def _pairs(shape: tuple[int, int], rows: int) -> int:
    """Return the number of pairs of mirrored blocks."""
    half = (shape[0] + 1) // 2
    return -(-half // rows)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array
