"""Linear operators: ``forward``, ``adjoint``, and the adjoint is the gradient."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors import (
    BACKENDS,
    FOOTPRINTS,
    Backend,
    Footprint,
    get_backend,
    has_triton,
)

_Map = Callable[[Tensor], Tensor]
_HALVES = (torch.float16, torch.bfloat16)


def _backend_for(device: torch.device) -> str:
    """Return the fastest backend for a device."""
    if device.type == "cpu":
        return "cpu"
    return "triton" if device.type == "cuda" and has_triton() else "torch"


class _Linear(torch.autograd.Function):
    """Apply a linear map; its gradient is its adjoint, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: _Map, adjoint: _Map) -> Tensor:
        ctx.maps = (apply, adjoint)
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        apply, adjoint = ctx.maps
        return _linear(grad[0], adjoint, apply), None, None


class _Weighted(torch.autograd.Function):
    """Apply a linear map to a weighted input; weights are shared by the batch.

    Only the two inputs are saved. The gradient needs one adjoint, for input and weights alike,
    and is itself differentiable: it is made of differentiable parts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        apply: Callable[[Tensor, Tensor], Tensor],
        linear_adjoint: _Map,
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.linear_adjoint = linear_adjoint
        return apply(x, weights)

    @staticmethod
    def backward(
        ctx: Any,
        *grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weights = ctx.saved_tensors
        for_x, for_weights, *_ = ctx.needs_input_grad
        plain = ctx.linear_adjoint(grad[0])
        of_weights = of_x = None
        if for_weights:
            views, bins = weights.shape
            pair = x.reshape(-1, views, bins), plain.reshape(-1, views, bins)
            of_weights = torch.einsum("bvd,bvd->vd", *pair).to(weights.dtype)
        if for_x:
            again = torch.is_grad_enabled()  # a second derivative will be asked for
            of_x = plain * weights if again else plain.mul_(weights)
        return of_x, of_weights, None, None


def _linear(x: Tensor, apply: _Map, adjoint: _Map) -> Tensor:
    result: Tensor = _Linear.apply(x, apply, adjoint)  # type: ignore[no-untyped-call]  # torch's has no types
    return result


class LinearOperator(nn.Module, ABC):
    """A linear map between tensors, differentiable to any order in both directions."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose."""

    @property
    def H(self) -> "LinearOperator":
        """The adjoint as an operator."""
        return _Adjoint(self)


class _Adjoint(LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        result: Tensor = self.operator(y)
        return result

    @property
    def H(self) -> LinearOperator:
        return self.operator


class _TomographicOperator(LinearOperator):
    """What `Projector` and `WeightedBackprojector` share: backends, batches, dtypes."""

    def __init__(self, geometry: Geometry, grid: ImageGrid, backend: str = "auto") -> None:
        super().__init__()
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, not {backend!r}")
        self.geometry = geometry
        self.grid = grid
        self.backend = backend
        self._get_backend("cpu" if backend == "auto" else backend)  # fail early, not in training

    def extra_repr(self) -> str:
        """Shapes, for ``print``."""
        return f"image={self.grid.shape}, sinogram={self.geometry.shape}, backend={self.backend}"

    def _get_backend(self, name: str) -> Backend:
        return get_backend(name, self.geometry, self.grid)

    def _run(
        self,
        x: Tensor,
        shape: tuple[int, int],
        what: str,
        name: str,
        *options: Any,
    ) -> Tensor:
        if x.ndim < 2 or tuple(x.shape[-2:]) != shape:
            raise ValueError(
                f"{type(self).__name__}: expected {what} of shape (..., {shape[0]}, {shape[1]}), "
                f"got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{type(self).__name__}: expected a floating dtype, got {x.dtype}")
        chosen = self.backend
        if chosen == "auto":
            chosen = _backend_for(x.device)
        if chosen == "cpu" and x.device.type != "cpu":
            raise ValueError(f"the cpu backend needs CPU tensors, got one on {x.device}")
        as_it_is = x.dtype == torch.float64 or (chosen == "triton" and x.dtype in _HALVES)
        work = x if as_it_is else x.float()
        flat = work.reshape(-1, *shape)
        result: Tensor = getattr(self._get_backend(chosen), name)(flat, *options)
        return result.reshape(*x.shape[:-2], *result.shape[-2:]).to(x.dtype)


class Projector(_TomographicOperator):
    """Line integrals of an image along every ray.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    grid
        The image grid.
    backend
        ``"auto"`` (CPU kernels for CPU tensors, Triton for CUDA tensors where it is installed,
        PyTorch elsewhere), ``"cpu"``, ``"triton"`` or ``"torch"``.
    footprint
        What a bin sees of each row (or column) of pixels that its ray crosses: ``"joseph"``, the
        value interpolated at the ray, or ``"distance-driven"``, the mean between the bin's edges,
        which leaves no pixel unseen where bins are wider than pixels.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image, or backend or footprint are unknown.

    Notes
    -----
    Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1982,
    doi 10.1109/TMI.1982.4307572. De Man and Basu, "Distance-driven projection and backprojection
    in three dimensions", Phys. Med. Biol. 2004, doi 10.1088/0031-9155/49/11/024.
    """

    def __init__(
        self,
        geometry: Geometry,
        grid: ImageGrid,
        backend: str = "auto",
        footprint: Footprint = "joseph",
    ) -> None:
        super().__init__(geometry, grid, backend)
        if footprint not in FOOTPRINTS:
            raise ValueError(f"footprint must be one of {', '.join(FOOTPRINTS)}, not {footprint!r}")
        self.footprint = footprint

    def forward(self, x: Tensor) -> Tensor:
        """Project ``(..., rows, columns)`` to ``(..., views, bins)``, in mm times x's unit."""
        return _linear(x, self._apply_map, self._adjoint_map)

    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose: ``(..., views, bins)`` to ``(..., rows, columns)``."""
        return _linear(y, self._adjoint_map, self._apply_map)

    def _apply_map(self, x: Tensor) -> Tensor:
        return self._run(x, self.grid.shape, "an image", "project", self.footprint)

    def _adjoint_map(self, y: Tensor) -> Tensor:
        shape = self.geometry.shape
        return self._run(y, shape, "a sinogram", "project_adjoint", self.footprint)


class WeightedBackprojector(_TomographicOperator):
    r"""Pixel-driven back-projection with the distance weight of filtered back-projection.

    Each pixel sums, over the views, the sinogram interpolated linearly between bins, times
    1 (parallel), :math:`SID^2/U^2` (flat; ``U`` is the pixel's distance from the source along
    the central ray) or :math:`SID^2/L^2` (curved; ``L`` is its distance from the source). No
    filter is applied, and no angular weight but the ``weights`` (view x bin) that `forward` may be
    given, learnable or not, which cost no pass of their own. Outside the detector the sinogram
    counts as zero.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    grid
        The image grid.
    backend
        ``"auto"`` (CPU kernels for CPU tensors, Triton for CUDA tensors where it is installed,
        PyTorch elsewhere), ``"cpu"``, ``"triton"`` or ``"torch"``.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image, or the backend is unknown.
    """

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Back-project ``(..., views, bins)`` to ``(..., rows, columns)``.

        ``weights`` of shape ``(views, bins)`` multiply each sinogram first.
        """
        if weights is None:
            return _linear(x, self._apply_map, self._adjoint_map)
        if tuple(weights.shape) != self.geometry.shape:
            raise ValueError(
                f"WeightedBackprojector: weights must have the shape {self.geometry.shape}, "
                f"not {tuple(weights.shape)}"
            )
        result: Tensor = _Weighted.apply(  # type: ignore[no-untyped-call]  # torch's has no types
            x, weights, self._apply_map, self.adjoint
        )
        return result

    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose without weights: ``(..., rows, columns)`` to ``(..., views, bins)``."""
        return _linear(y, self._adjoint_map, self._apply_map)

    def _apply_map(self, x: Tensor, *weights: Tensor) -> Tensor:
        return self._run(x, self.geometry.shape, "a sinogram", "backproject", *weights)

    def _adjoint_map(self, y: Tensor) -> Tensor:
        return self._run(y, self.grid.shape, "an image", "backproject_adjoint")
