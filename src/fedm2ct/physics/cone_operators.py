"""Cone-beam operators, circular and helical, on the interface of `LinearOperator`."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.physics.operators import LinearOperator, _linear
from fedm2ct.physics.projectors.cone import ConeBackend

Shape = tuple[int, int, int]


class _ConeOperator(LinearOperator):
    """What `ConeProjector` and `ConeBackprojector` share: batches, dtypes, refusals."""

    def __init__(self, geometry: ConeGeometry, grid: VolumeGrid) -> None:
        super().__init__()
        self.geometry = geometry
        self.grid = grid

    def extra_repr(self) -> str:
        """Shapes, for ``print``."""
        return f"volume={self.grid.shape}, projections={self.geometry.shape}"

    def _run(self, x: Tensor, shape: Shape, what: str, apply: Callable[[Tensor], Tensor]) -> Tensor:
        name = type(self).__name__
        if x.ndim < 3 or tuple(x.shape[-3:]) != shape:
            sizes = ", ".join(map(str, shape))
            raise ValueError(
                f"{name}: expected {what} of shape (..., {sizes}), got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.device.type != "cpu":
            raise ValueError(
                f"{name}: the cone beam runs on the CPU only; move the tensor there with .cpu(), "
                f"it is on {x.device}"
            )
        work = x if x.dtype == torch.float64 else x.float()
        result = apply(work.reshape(-1, *shape))
        return result.reshape(*x.shape[:-3], *result.shape[-3:]).to(x.dtype)


class ConeProjector(_ConeOperator):
    """Line integrals of a volume along the ray to every detector element.

    Each ray is sampled once for every row of voxels that it crosses, or once for every column
    where it runs closer to the rows, with bilinear interpolation between the four voxels around
    it. Outside the volume there is air. Every number is computed on the way, no matrix is stored.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    grid
        The volume's grid.

    Raises
    ------
    ValueError
        If the source would pass through or over the volume.

    Notes
    -----
    Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1982,
    doi 10.1109/TMI.1982.4307572, here with one dimension more. Rays are taken to be closer to the
    plane than to the axis: above a cone angle of 45 degrees sampling would grow coarse.
    """

    def __init__(self, geometry: ConeGeometry, grid: VolumeGrid) -> None:
        super().__init__(geometry, grid)
        self._backend = ConeBackend(geometry, grid)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``(..., slices, rows, columns)``, in mm times x's unit.

        Returns ``(..., views, detector rows, detector columns)``.
        """
        return _linear(x, self._apply_map, self._adjoint_map)

    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose: from projections to a volume."""
        return _linear(y, self._adjoint_map, self._apply_map)

    def _apply_map(self, x: Tensor) -> Tensor:
        return self._run(x, self.grid.shape, "a volume", self._backend.project)

    def _adjoint_map(self, y: Tensor) -> Tensor:
        return self._run(y, self.geometry.shape, "projections", self._backend.project_adjoint)


class ConeBackprojector(_ConeOperator):
    r"""Voxel-driven back-projection with the distance weight of Feldkamp, Davis and Kress.

    Each voxel sums, over the views, the projection interpolated bilinearly where the voxel is
    seen, times :math:`SID^2/U^2` (flat; ``U`` is the voxel's distance from the source along the
    central ray) or :math:`SID^2/L^2` (curved; ``L`` is its distance from the source, both in
    the plane), times the view's share in the voxel's slice. No filter is applied. Outside the
    detector projections count as zero.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    grid
        The volume's grid.
    shares
        Weight of each view in each slice, shape ``(views, slices)``; 1 if not given.

    Raises
    ------
    ValueError
        If the source would pass through or over the volume, or shares have another shape.
    """

    def __init__(
        self, geometry: ConeGeometry, grid: VolumeGrid, shares: Tensor | None = None
    ) -> None:
        super().__init__(geometry, grid)
        expected = (geometry.n_views, grid.slices)
        if shares is not None and tuple(shares.shape) != expected:
            raise ValueError(
                f"ConeBackprojector: shares must have the shape {expected}, "
                f"not {tuple(shares.shape)}"
            )
        table = None if shares is None else shares.detach().double().cpu().contiguous().numpy()
        self._backend = ConeBackend(geometry, grid, table)

    def forward(self, x: Tensor) -> Tensor:
        """Back-project ``(..., views, detector rows, detector columns)``.

        Returns ``(..., slices, rows, columns)``.
        """
        return _linear(x, self._apply_map, self._adjoint_map)

    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose: from a volume to projections."""
        return _linear(y, self._adjoint_map, self._apply_map)

    def _apply_map(self, x: Tensor) -> Tensor:
        return self._run(x, self.geometry.shape, "projections", self._backend.backproject)

    def _adjoint_map(self, y: Tensor) -> Tensor:
        return self._run(y, self.grid.shape, "a volume", self._backend.backproject_adjoint)
