"""The cone beam's CPU backend: what the kernels need to know, memory layout and threads."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.physics.projectors import cone_kernels
from fedm2ct.physics.projectors.threads import in_threads

Array = NDArray[Any]


def check_source_outside(geometry: ConeGeometry, grid: VolumeGrid) -> None:
    """Raise ``ValueError`` where the source would pass through or over the volume."""
    radius = 0.5 * grid.pixel_mm * float(np.hypot(grid.rows, grid.columns))
    nearest = float(np.hypot(*geometry.in_plane.sources_mm).min())
    if nearest <= radius:
        raise ValueError(
            f"ConeGeometry: the source comes within {nearest:g} mm of the axis of rotation, but "
            f"the volume reaches {radius:.1f} mm from it; use a smaller grid"
        )


def _padded(values: Tensor, m: int, n: int) -> Array:
    """Put ``(B, M, N, H)`` in an array with ``m`` and ``n`` zeros around M and N, 1 + 2 around H.

    The second zero above is what is read with weight zero at the upper end.
    """
    batch, rows, columns, heights = values.shape
    array = np.zeros((batch, rows + 2 * m, columns + 2 * n, heights + 3), dtype=_dtype(values))
    array[:, m : m + rows, n : n + columns, 1 : heights + 1] = values.detach().numpy()
    return array


def _dtype(tensor: Tensor) -> type[np.floating[Any]]:
    return np.float64 if tensor.dtype == torch.float64 else np.float32


class ConeBackend:
    """Cone-beam operators on batches of CPU tensors, float32 or float64.

    Volumes are ``(batch, slices, rows, columns)``, projections ``(batch, views, detector rows,
    detector columns)``. Results do not depend on the number of threads
    (``torch.set_num_threads``).

    Parameters
    ----------
    geometry, grid
        The acquisition and the volume.
    shares
        Weight of each view in each slice's back-projection, shape ``(views, slices)``; all one
        if not given.

    Raises
    ------
    ValueError
        If the source would pass through or over the volume.
    """

    def __init__(
        self, geometry: ConeGeometry, grid: VolumeGrid, shares: Array | None = None
    ) -> None:
        check_source_outside(geometry, grid)
        self.geometry, self.grid = geometry, grid
        cos, sin = np.cos(geometry.angles), np.sin(geometry.angles)
        ahead, aside = geometry.in_plane.sources_mm
        self._scan = (
            ahead * cos - aside * sin,  # source: x, y
            ahead * sin + aside * cos,
            cos,
            sin,
            *geometry.elements_mm,  # detector columns: along n, across
            geometry.focus_z_mm,  # source: z
            geometry.detector_z_mm + geometry.rows_mm[0],  # first detector row: z
            float(geometry.row_pitch_mm),
        )
        self._grid = (
            grid.rows, grid.columns, float(grid.pixel_mm),
            grid.slices, float(grid.z_mm[0]), float(grid.slice_mm),
        )  # fmt: skip
        self._detector = (
            geometry.detector == "curved",
            geometry.in_plane.has_source_shift,
            float(geometry.source_to_isocentre_mm),
            float(geometry.source_to_detector_mm),
            float(geometry.in_plane.bins_mm[0]),
            float(geometry.column_pitch_mm),
        )
        self._shares = np.ones((1, grid.slices)) if shares is None else shares
        used = np.broadcast_to(self._shares != 0, (geometry.n_views, grid.slices))
        after = np.where(used.any(1), grid.slices - used[:, ::-1].argmax(1), 0)
        self._slices = used.argmax(1), after

    def project(self, volume: Tensor) -> Tensor:
        """Line integrals in mm times the volume's unit."""
        lines = _padded(volume.permute(0, 2, 3, 1), 1, 1)
        views, rows, columns = self.geometry.shape
        out = np.zeros((len(volume), views, columns, rows), dtype=lines.dtype)
        flat = lines.reshape(len(volume), -1, lines.shape[3])
        in_threads(cone_kernels.joseph_forward, views, flat, self._scan, self._grid, out)
        return torch.from_numpy(out).transpose(2, 3).contiguous()

    def project_adjoint(self, projections: Tensor) -> Tensor:
        """Transpose of `project`."""
        rays = projections.detach().transpose(2, 3).contiguous().numpy()
        slices, rows, columns = self.grid.shape
        out = np.zeros((len(rays), rows + 2, columns + 2, slices + 3), dtype=rays.dtype)
        flat = out.reshape(len(rays), -1, slices + 3)
        for lines, by_row in ((rows, True), (columns, False)):
            in_threads(
                cone_kernels.joseph_adjoint, lines, by_row, rays, self._scan, self._grid, flat
            )
        volume = torch.from_numpy(out[:, 1:-1, 1:-1, 1:-2])
        return volume.permute(0, 3, 1, 2).contiguous()

    def backproject(self, projections: Tensor) -> Tensor:
        """Voxel-driven back-projection with the distance weight of the plane."""
        rays = _padded(projections.transpose(2, 3), 0, 1)
        slices, rows, columns = self.grid.shape
        out = np.zeros((len(rays), rows, columns, slices), dtype=rays.dtype)
        tables = self._scan, self._grid, self._seen_by(rays)
        in_threads(cone_kernels.voxel_forward, rows, rays, *tables, out)
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def backproject_adjoint(self, volume: Tensor) -> Tensor:
        """Transpose of `backproject`."""
        voxels = volume.detach().permute(0, 2, 3, 1).contiguous().numpy()
        views, rows, columns = self.geometry.shape
        out = np.zeros((len(voxels), views, columns + 2, rows + 3), dtype=voxels.dtype)
        tables = self._scan, self._grid, self._seen_by(voxels)
        in_threads(cone_kernels.voxel_adjoint, views, voxels, *tables, out)
        return torch.from_numpy(out[:, :, 1:-1, 1:-2]).transpose(2, 3).contiguous()

    def _seen_by(self, like: Array) -> tuple[Any, ...]:
        return (*self._detector, self._shares.astype(like.dtype), *self._slices)
