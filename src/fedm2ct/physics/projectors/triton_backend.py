"""The GPU backend: Triton kernels, every one of them a gather.

Nothing is added with atomics, so results are the same to the last bit in every run. A batch is
one pass: a program works on a tile of rays (or pixels) for up to `_MOST_IMAGES` images, and
indices and weights are computed once for all of them. float16 and bfloat16 tensors are read and
written as they are and summed in float32; float64 stays float64.

Nothing goes through the host: a geometry's tables are moved to a device at the first call there
and kept. A call after that only allocates and launches, so it can be captured in a CUDA graph;
call once before the capture, to compile the kernels and move the tables.

In float32, positions on 512 x 512 pixels and 736 to 1000 bins were within 1e-4 bins for pixels on
the detector (1e-5 root mean square) and within 5e-5 pixels for rays on lines of pixels, measured in
the interpreter; the error grows with the size. `triton_tables` says what is done for it,
`triton_pixels` how adjoints are gathered.

The same kernels run on CPU tensors in Triton's interpreter, for tests: set ``TRITON_INTERPRET=1``
before this module is first imported.

Limits: fewer than 2^31 pixels in one padded image, and than 2^31 / 5 rays; a geometry's tables
take 20 bytes a ray of the device's memory for Joseph's method and 28 each for the distance-driven
one and for the transposed back-projection, in float32; curved detectors have fans of up to 50
degrees to each side (`triton_tables` refuses wider ones). The sizes of the tiles were chosen
without measurements on a GPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors import triton_pixels, triton_rays
from fedm2ct.physics.projectors.base import Backend, Footprint
from fedm2ct.physics.projectors.pixels import pixel_table
from fedm2ct.physics.projectors.triton_tables import (
    LineTable,
    ViewTable,
    joseph_table,
    strip_table,
    view_table,
)

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run in Triton's interpreter, on CPU tensors."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_IMAGES = 8
_Table = TypeVar("_Table", ViewTable, LineTable)


class TritonBackend(Backend):
    """Both footprints, pixel-driven back-projection and their transposes on a GPU.

    Takes float16, bfloat16, float32 and float64.

    Attributes
    ----------
    ray_tile
        Views and bins of a program that gathers along rays, powers of two.
    pixel_tile
        Rows and columns of a program that gathers for pixels, powers of two.
    """

    ray_tile = (4, 32)
    pixel_tile = (16, 32)

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__(geometry, grid)
        pixel_table(geometry, grid)  # fail early
        self._tables: dict[tuple[Any, ...], Any] = {}

    def project(self, image: Tensor, footprint: Footprint = "joseph") -> Tensor:
        lines, out = _padded_lines(image), image.new_empty(len(image), *self.geometry.shape)
        if footprint == "distance-driven":
            table = self._strips(image, 0.5)
            self._launch(triton_rays.footprint, out, lines, table.values, table.spans, out)
        else:
            table = self._rays(image)
            self._launch(
                triton_rays.joseph, out, lines, table.values, table.spans, out, UNROLL=4
            )  # fmt: skip
        return out

    def project_adjoint(self, sinogram: Tensor, footprint: Footprint = "joseph") -> Tensor:
        driven = footprint == "distance-driven"
        views = self._views(sinogram)
        table = self._strips(sinogram, 0.5) if driven else self._rays(sinogram)
        out = sinogram.new_empty(len(sinogram), *self.grid.shape)
        self._launch(
            triton_pixels.project_adjoint,
            out,
            *(sinogram.contiguous(), views.values, table.values, out),
            stretch=views.stretch,
            DISTANCE_DRIVEN=driven,
            **_series_of(views),
        )
        return out

    def backproject(self, sinogram: Tensor, weights: Tensor | None = None) -> Tensor:
        views = self._views(sinogram)
        out = sinogram.new_empty(len(sinogram), *self.grid.shape)
        given = sinogram if weights is None else weights.contiguous()
        self._launch(
            triton_pixels.backproject,
            out,
            *(sinogram.contiguous(), given, views.values, out),
            WEIGHTED=weights is not None,
            **_series_of(views),
        )
        return out

    def backproject_adjoint(self, image: Tensor) -> Tensor:
        views, table = self._views(image), self._strips(image, 1.0)
        lines, out = _padded_lines(image), image.new_empty(len(image), *self.geometry.shape)
        self._launch(
            triton_rays.backproject_adjoint,
            out,
            *(lines, views.values, table.values, table.spans, out),
            **_series_of(views),
        )
        return out

    def _launch(
        self,
        kernel: Any,
        out: Tensor,
        *tensors: Tensor,
        **options: Any,
    ) -> None:
        """Run a kernel over tiles of ``out``'s last two axes and blocks of its batch."""
        images = min(_MOST_IMAGES, triton.next_power_of_2(max(1, len(out))))
        by_ray = kernel not in (triton_pixels.backproject, triton_pixels.project_adjoint)
        block = self.ray_tile if by_ray else self.pixel_tile
        names = ("BLOCK_V", "BLOCK_D") if by_ray else ("BLOCK_R", "BLOCK_C")
        tiles = triton.cdiv(out.shape[1], block[0]) * triton.cdiv(out.shape[2], block[1])
        with _on(out.device):
            kernel[(tiles, triton.cdiv(len(out), images))](
                *tensors,
                len(out),
                *self.geometry.shape,
                *self.grid.shape,
                **options,
                **dict(zip(names, block, strict=True)),
                BLOCK_B=images,
            )

    def _views(self, like: Tensor) -> ViewTable:
        return self._table("views", view_table, like)

    def _rays(self, like: Tensor) -> LineTable:
        return self._table("rays", joseph_table, like)

    def _strips(self, like: Tensor, reach: float) -> LineTable:
        return self._table(f"strips of {reach}", partial(strip_table, reach=reach), like)

    def _table(self, name: str, compute: Callable[..., _Table], like: Tensor) -> _Table:
        """Return a table on a tensor's device, in the dtype that its kernels compute in."""
        if like.dtype not in _DTYPES:
            raise ValueError(
                f"the triton backend takes float16, bfloat16, float32 and float64, not {like.dtype}"
            )
        if like.device.type != "cuda" and not INTERPRETED:
            raise ValueError(
                f"the triton backend needs CUDA tensors, got one on {like.device} (for tests on a "
                "CPU: set TRITON_INTERPRET=1 before the first use)"
            )
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = name, dtype, like.device
        if key not in self._tables:
            self._tables[key] = compute(
                self.geometry, self.grid, dtype=dtype, device=like.device
            )  # fmt: skip
        table: _Table = self._tables[key]
        return table


def _series_of(views: ViewTable) -> dict[str, Any]:
    return {"KIND": views.kind, "ATAN": views.atan, "ASIN": views.asin}


def _padded_lines(image: Tensor) -> Tensor:
    """Return all rows, then all columns, each with a zero on both sides: ``(batch, pixels)``."""
    count, rows, columns = image.shape
    cut = rows * (columns + 2)
    lines = image.new_zeros(count, cut + columns * (rows + 2))
    lines[:, :cut].unflatten(1, (rows, columns + 2))[:, :, 1:-1] = image
    lines[:, cut:].unflatten(1, (columns, rows + 2))[:, :, 1:-1] = image.transpose(1, 2)
    return lines


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one: Triton launches there, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
