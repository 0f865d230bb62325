"""Slices of a scan on a protocol's pixel grid, by exact areas."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedm2ct.data.scans import Scan, ScanError
from fedm2ct.physics.geometry import ImageGrid
from fedm2ct.units import HU_MIN


def slices_on_grid(
    scan: Scan, grid: ImageGrid, slices: Sequence[int], *, interpolant_pixel_mm: float | None = None
) -> torch.Tensor:
    """Resample axial slices to a grid, both centred on one another.

    Each pixel of the grid is the mean, over its area, of the scan taken as a function of the
    plane: constant in each of the scan's pixels where the grid is as coarse or coarser (so a
    scan on this very grid stays as it is), bilinear between their centres where the grid is
    finer. Outside the scan there is air, -1024 HU; what lies outside the grid is cut off.

    Parameters
    ----------
    scan
        The scan.
    grid
        Target grid.
    slices
        Indices along the scan's first axis, not negative.
    interpolant_pixel_mm
        Choose the function as for a grid of this pixel size: the mean over blocks of a refined
        grid is then exactly the result on the coarse grid.

    Returns
    -------
    HU, float32, shape ``(n, 1, rows, columns)``.

    Raises
    ------
    ScanError
        If there are no slices or an index is outside the scan.
    """
    if len(slices) == 0:
        raise ScanError(f"{scan.name}: no slices were asked for; name at least one.")
    wrong = [i for i in slices if not 0 <= i < len(scan.hu)]
    if wrong:
        raise ScanError(f"{scan.name}: has slices 0 to {len(scan.hu) - 1}, there is no {wrong[0]}.")
    coarse = grid.pixel_mm if interpolant_pixel_mm is None else interpolant_pixel_mm
    _, down_mm, across_mm = scan.spacing_zyx_mm
    down = _area_weights(grid.rows, grid.pixel_mm, scan.hu.shape[1], down_mm, coarse)
    across = _area_weights(grid.columns, grid.pixel_mm, scan.hu.shape[2], across_mm, coarse)
    above_air = scan.hu[list(slices)].astype(np.float64) - HU_MIN
    resampled = down @ above_air @ across.T + HU_MIN
    return torch.from_numpy(resampled.astype(np.float32)).unsqueeze(1)


def _area_weights(
    n_out: int, out_mm: float, n_in: int, in_mm: float, coarse_mm: float
) -> NDArray[np.float64]:
    """Weights of ``n_in`` input pixels in the mean over each of ``n_out`` output pixels.

    Integrals of the interpolating kernel between the output pixels' edges, from its
    antiderivative; shape ``(n_out, n_in)``.
    """
    edges = (np.arange(n_out + 1) - n_out / 2) * out_mm
    centres = (np.arange(n_in) - (n_in - 1) / 2) * in_mm
    t = (edges[:, None] - centres) / in_mm
    if coarse_mm >= in_mm * (1 - 1e-6):
        integral = np.clip(t, -0.5, 0.5)
    else:
        s = np.clip(t, -1.0, 1.0)
        integral = s - np.sign(s) * s * s / 2
    weights: NDArray[np.float64] = np.diff(integral, axis=0) * (in_mm / out_mm)
    return weights
