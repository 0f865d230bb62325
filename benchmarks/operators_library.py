"""What a measured library looks like, and this project's own operators in that form.

A library's `call` prepares an operation on a batch: ``run`` is what is timed, the computation
alone, on data that already lies in the library's own format; ``read`` turns what the last run has
made into this project's conventions (``docs/conventions.md``; mm, not scaled by mu).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from operators_cases import Setup, without_symmetry
from torch import Tensor

from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.geometry import FanGeometry, ParallelGeometry
from fedm2ct.physics.operators import Projector, WeightedBackprojector
from fedm2ct.physics.projectors import Footprint
from fedm2ct.physics.projectors.rays import ray_table

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Call:
    """An operation on data of the library's own format."""

    run: Callable[[], None]
    read: Callable[[], Tensor]


class Library(ABC):
    """Operators of one acquisition in one library."""

    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Distributions that it needs; their versions are recorded."""
    operations: ClassVar[tuple[str, ...]] = ("forward", "adjoint")
    beams: ClassVar[tuple[type, ...]] = (FanGeometry,)
    threads: ClassVar[Literal["any", "one", "process"]] = "any"
    """Whether threads can be set at any time, not at all, or once a process (`environment`)."""
    footprint: ClassVar[Literal["line", "bin"]] = "line"
    """Whether a bin is meant as its central ray or as the mean over its width."""
    ours: ClassVar[bool] = False

    @classmethod
    def supports(cls, operation: str, setup: Setup) -> bool:
        """Return whether the library has an operation for the beam."""
        return operation in cls.operations and isinstance(setup.geometry, cls.beams)

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Return the environment variables that set the threads of a process."""
        return {}

    def set_threads(self, threads: int) -> None:
        """Use so many threads in calls that are made from now on."""
        torch.set_num_threads(threads)

    @abstractmethod
    def call(self, operation: str, x: Tensor) -> Call:
        """Prepare an operation on ``x``, an image or a sinogram ``(batch, 1, ., .)``."""


def kept(
    function: Callable[[Tensor], Tensor], x: Tensor, after: Callable[[Tensor], Tensor]
) -> Call:
    """Return a call that keeps the result of a function of tensors."""
    results: list[Tensor] = []

    def run() -> None:
        results.clear()
        with torch.no_grad():
            results.append(function(x))

    return Call(run, lambda: after(results[0]))


def slices_of(x: Tensor) -> list[Array]:
    """Return the batch as contiguous arrays."""
    return [np.ascontiguousarray(part[0].numpy()) for part in x]


def batch_of(slices: Sequence[Array]) -> Tensor:
    """Return arrays as a batch ``(batch, 1, ., .)``."""
    return torch.from_numpy(np.stack(slices)[:, None])


def _as_is(x: Tensor) -> Tensor:
    return x


class Ours(Library):
    """The project's own operators."""

    title = "fedm2ct"
    packages = ("numba", "torch")
    operations = ("forward", "adjoint", "backproject", "fbp")
    beams = (FanGeometry, ParallelGeometry)
    ours = True
    kind: ClassVar[Footprint] = "joseph"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.projector = Projector(setup.geometry, setup.grid, footprint=self.kind)
        self.backprojector = WeightedBackprojector(setup.geometry, setup.grid)

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "forward": self.projector,
            "adjoint": self.projector.adjoint,
            "backproject": self.backprojector,
            "fbp": self._fbp,
        }
        return kept(functions[operation], x, _as_is)

    def _fbp(self, sinogram: Tensor) -> Tensor:
        return fbp(sinogram, self.setup.geometry, self.setup.grid)


class OursWithoutSymmetry(Ours):
    """Views at irregular angles: nothing can be shared between views."""

    title = "fedm2ct, irregular views"

    def __init__(self, setup: Setup) -> None:
        super().__init__(without_symmetry(setup))


class OursDistanceDriven(Ours):
    """The other footprint."""

    title = "fedm2ct, distance-driven"
    operations = ("forward", "adjoint")
    footprint = "bin"
    kind = "distance-driven"


class SparseMatrix(Library):
    """Our rays as a CSR matrix, multiplied by torch; both directions are stored."""

    title = "torch, sparse CSR matrix"
    packages = ("torch", "scipy")
    beams = (FanGeometry, ParallelGeometry)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from scipy.sparse import csr_array, vstack

        views = range(0, setup.geometry.n_views, 50)  # bounds what is in memory meanwhile
        chunks = [csr_array(*_entries(setup, v, v + 50)) for v in views]
        self._matrix = vstack(chunks, format="csr")
        self._tensors: dict[str, Tensor] = {}

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        if operation not in self._tensors:
            forward = operation == "forward"
            self._tensors[operation] = _tensor(self._matrix if forward else self._matrix.T.tocsr())
        matrix, batch = self._tensors[operation], len(x)
        to = self.setup.geometry.shape if operation == "forward" else self.setup.grid.shape
        columns = x.reshape(batch, -1).T.contiguous()
        return kept(matrix.matmul, columns, lambda y: y.T.reshape(batch, 1, *to))


def _tensor(m: Any) -> Tensor:
    parts = (torch.from_numpy(array) for array in (m.indptr, m.indices, m.data))
    return torch.sparse_csr_tensor(*parts, m.shape)


def _entries(
    setup: Setup, first_view: int, end_view: int
) -> tuple[tuple[Array, tuple[NDArray[np.int32], NDArray[np.int32]]], tuple[int, int]]:
    """Return some views' Joseph weights with their rays and pixels, and the matrix's shape."""
    whole, (rows, columns) = ray_table(setup.geometry, setup.grid), setup.grid.shape
    fields = ("start", "stop", "first", "slope", "by_row", "length_mm")
    start, stop, first, slope, by_row, length = (
        getattr(whole, name)[first_view:end_view].ravel() for name in fields
    )
    weights, rays, pixels = [], [], []
    for line in range(max(rows, columns)):
        (ray,) = np.nonzero((start <= line) & (line < stop))
        at = first[ray] + slope[ray] * line
        before = np.floor(at).astype(np.int32)
        for pixel, share in ((before - 1, 1 - (at - before)), (before, at - before)):
            inside = (pixel >= 0) & (pixel < np.where(by_row[ray], columns, rows))
            place = np.where(by_row[ray], line * columns + pixel, pixel * columns + line)
            weights.append((share * length[ray])[inside].astype(np.float32))
            rays.append(ray[inside].astype(np.int32))
            pixels.append(place[inside].astype(np.int32))
    shape = (len(start), rows * columns)
    return (np.concatenate(weights), (np.concatenate(rays), np.concatenate(pixels))), shape
