"""Where each ray runs through the pixel grid: the tables behind Joseph's method.

Every ray of every geometry is a line ``m . x = q`` whose unit normal ``m`` has the angle
``theta - gamma + pi/2`` (``gamma`` the fan angle, 0 for parallel beams). A ray that is closer to
vertical is sampled once per image row, between two columns; the others once per column, between
two rows (Joseph, doi 10.1109/TMI.1982.4307572).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid

_EDGE = 1e-9
"""Samples nearer than this (in pixels) to a weight of zero are left out, against rounding."""


def ray_lines(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every ray as a parallel-beam ray.

    Parameters
    ----------
    geometry
        The acquisition geometry.

    Returns
    -------
    angles, offsets
        View angle in radians, shape ``(views, bins)``, and distance from the isocentre along
        ``(-sin, cos)`` of that angle in mm, shape ``(bins,)``.
    """
    if isinstance(geometry, FanGeometry):
        gamma = geometry.fan_angles_rad
        offsets = geometry.source_to_isocentre_mm * np.sin(gamma)
        return geometry.angles[:, None] - gamma[None, :], offsets
    angles = np.broadcast_to(geometry.angles[:, None], geometry.shape)
    return angles, geometry.bins_mm


def check_source_outside(geometry: Geometry, grid: ImageGrid) -> None:
    """Raise ``ValueError`` where the source of a fan beam would pass through the image."""
    if not isinstance(geometry, FanGeometry):
        return
    radius = 0.5 * grid.pixel_mm * float(np.hypot(grid.rows, grid.columns))
    if geometry.source_to_isocentre_mm <= radius:
        raise ValueError(
            f"FanGeometry: source_to_isocentre_mm is {geometry.source_to_isocentre_mm:g}, but the "
            f"image grid reaches {radius:.1f} mm from the isocentre; use a smaller grid"
        )


@dataclass(frozen=True)
class RayTable:
    """Joseph's samples of every ray; arrays of shape ``(views, bins)``.

    Attributes
    ----------
    by_row
        True where the ray is sampled once per row, False where once per column.
    first, slope
        On line ``i`` (row or column) the ray crosses at ``first + slope * i``, in pixels along
        that line, where pixel 0 is one pixel of padding before the image.
    length_mm
        Length of the ray between two lines.
    start, stop
        The lines ``start <= i < stop`` on which the ray meets the padded image.
    """

    by_row: NDArray[np.bool_]
    first: NDArray[np.float64]
    slope: NDArray[np.float64]
    length_mm: NDArray[np.float64]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]


@lru_cache(maxsize=32)
def ray_table(geometry: Geometry, grid: ImageGrid) -> RayTable:
    """Compute the samples of every ray of a geometry through a grid.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image.
    """
    check_source_outside(geometry, grid)
    angles, offsets = ray_lines(geometry)
    mx, my = -np.sin(angles), np.cos(angles)
    by_row = np.abs(mx) >= np.abs(my)
    major = np.where(by_row, mx, my)
    slope = np.where(by_row, my, mx) / major
    sign = np.where(by_row, 1.0, -1.0)
    half_r, half_c = (grid.rows - 1) / 2, (grid.columns - 1) / 2
    centre = np.where(by_row, half_c, half_r)
    lines_half = np.where(by_row, half_r, half_c)
    first = 1.0 + centre + sign * offsets / (major * grid.pixel_mm) - slope * lines_half
    width = np.where(by_row, grid.columns, grid.rows)
    count = np.where(by_row, grid.rows, grid.columns)
    start, stop = _crossings(first, slope, width, count)
    length = grid.pixel_mm / np.abs(major)
    return RayTable(by_row, first, slope, length, start, stop)


def _crossings(
    first: NDArray[np.float64],
    slope: NDArray[np.float64],
    width: NDArray[np.int_],
    count: NDArray[np.int_],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the lines on which ``0 < first + slope * i < width + 1``."""
    low, high = _EDGE, width + 1 - _EDGE
    flat = np.abs(slope) < 1e-12
    safe = np.where(flat, 1.0, slope)
    a, b = (low - first) / safe, (high - first) / safe
    begin = np.ceil(np.minimum(a, b))
    end = np.floor(np.maximum(a, b)) + 1
    inside = (first >= low) & (first <= high)
    begin = np.where(flat, 0, begin)
    end = np.where(flat, np.where(inside, count, 0), end)
    start = np.clip(begin, 0, count)
    stop = np.clip(end, start, count)
    return start.astype(np.int32), stop.astype(np.int32)
