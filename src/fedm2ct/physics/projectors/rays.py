"""Where each ray runs through the pixel grid: the tables behind the projector's two footprints.

Every ray of every geometry is a line ``m . x = q`` whose unit normal ``m`` has the angle
``psi + pi/2``: a parallel-beam ray at the view angle ``psi``. A ray that is closer to vertical is
sampled once per image row, the others once per image column. Joseph's method (doi
10.1109/TMI.1982.4307572) interpolates there between two pixels; the distance-driven method (De Man
and Basu, doi 10.1088/0031-9155/49/11/024) averages the pixels between the rays through the bin's
two edges.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid

Floats = NDArray[np.float64]
_EDGE = 1e-9
"""Samples nearer than this (in pixels) to a weight of zero are left out, against rounding."""


def ray_lines(geometry: Geometry, at: float = 0.0) -> tuple[Floats, Floats]:
    """Return every ray as a parallel-beam ray.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    at
        Where on the bin the ray ends, in bins from its centre: 0.5 is its upper edge.

    Returns
    -------
    angles, offsets
        View angle in radians and distance from the isocentre along ``(-sin, cos)`` of that angle
        in mm, both of shape ``(views, bins)``.
    """
    u = geometry.bins_mm + at * geometry.detector_pitch_mm
    if not isinstance(geometry, FanGeometry):
        angles = np.broadcast_to(geometry.angles[:, None], geometry.shape)
        return angles, np.broadcast_to(u, geometry.shape)
    sid, sdd = geometry.source_to_isocentre_mm, geometry.source_to_detector_mm
    if not geometry.has_source_shift:  # the same offsets in every view
        gamma = u / sdd if geometry.detector == "curved" else np.arctan(u / sdd)
        offsets = np.broadcast_to(sid * np.sin(gamma), geometry.shape)
        return geometry.angles[:, None] - gamma[None, :], offsets
    along, across = (side[:, None] for side in geometry.sources_mm)
    if geometry.detector == "curved":
        ends = sid - sdd * np.cos(u / sdd), sdd * np.sin(u / sdd)
    else:
        ends = np.full(len(u), sid - sdd), u
    turn = np.arctan2(across - ends[1], along - ends[0])
    return geometry.angles[:, None] + turn, across * np.cos(turn) - along * np.sin(turn)


def check_source_outside(geometry: Geometry, grid: ImageGrid) -> None:
    """Raise ``ValueError`` where the source of a fan beam would pass through the image."""
    if not isinstance(geometry, FanGeometry):
        return
    radius = 0.5 * grid.pixel_mm * float(np.hypot(grid.rows, grid.columns))
    nearest = float(np.hypot(*geometry.sources_mm).min())
    if nearest <= radius:
        raise ValueError(
            f"FanGeometry: the source comes within {nearest:g} mm of the isocentre "
            f"(source_to_isocentre_mm is {geometry.source_to_isocentre_mm:g}), but the image grid "
            f"reaches {radius:.1f} mm from it; use a smaller grid"
        )


@dataclass(frozen=True)
class RayTable:
    """What every ray meets on the lines (rows or columns) it is sampled on: ``(views, bins)``.

    Positions are in pixels along a line that is padded by one pixel: pixel ``k`` of the image is
    centred at ``k + 1``. On line ``i`` they are ``first + slope * i``.

    Attributes
    ----------
    by_row
        True where the ray is sampled once per row, False where once per column.
    first, slope
        Position of the ray through the bin's centre.
    low_first, low_slope, high_first, high_slope
        Positions of the rays through the bin's edges, the lower one first.
    length_mm
        Length of the central ray between two lines.
    start, stop
        The lines ``start <= i < stop`` on which the central ray meets the padded image.
    edge_start, edge_stop
        The lines on which the bin's footprint meets the image.
    """

    by_row: NDArray[np.bool_]
    first: Floats
    slope: Floats
    low_first: Floats
    low_slope: Floats
    high_first: Floats
    high_slope: Floats
    length_mm: Floats
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    edge_start: NDArray[np.int32]
    edge_stop: NDArray[np.int32]


@lru_cache(maxsize=8)
def ray_table(geometry: Geometry, grid: ImageGrid) -> RayTable:
    """Compute the samples of every ray of a geometry through a grid.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image.
    """
    check_source_outside(geometry, grid)
    angles, offsets = ray_lines(geometry)
    by_row = np.abs(np.sin(angles)) >= np.abs(np.cos(angles)) - _EDGE
    first, slope = _positions(angles, offsets, by_row, grid)
    one, other = (_positions(*ray_lines(geometry, at), by_row, grid) for at in (-0.5, 0.5))
    middle = np.where(by_row, grid.rows, grid.columns) / 2
    swap = one[0] + one[1] * middle > other[0] + other[1] * middle
    low = np.where(swap, other[0], one[0]), np.where(swap, other[1], one[1])
    high = np.where(swap, one[0], other[0]), np.where(swap, one[1], other[1])
    width = np.where(by_row, grid.columns, grid.rows)
    count = np.where(by_row, grid.rows, grid.columns)
    start, stop = _lines_where((first, slope), (first, slope), 0.0, width + 1.0, count)
    edge_start, edge_stop = _lines_where(high, low, 0.5, width + 0.5, count)
    length = grid.pixel_mm * np.sqrt(1 + slope**2)
    return RayTable(
        by_row, first, slope, low[0], low[1], high[0], high[1], length,
        start, stop, edge_start, edge_stop,
    )  # fmt: skip


def _positions(
    angles: Floats, offsets: Floats, by_row: NDArray[np.bool_], grid: ImageGrid
) -> tuple[Floats, Floats]:
    """Return a ray's position on line 0, and by how much it moves from line to line."""
    mx, my = -np.sin(angles), np.cos(angles)
    major = np.where(by_row, mx, my)
    slope = np.where(by_row, my, mx) / major
    sign = np.where(by_row, 1.0, -1.0)
    half_r, half_c = (grid.rows - 1) / 2, (grid.columns - 1) / 2
    centre = np.where(by_row, half_c, half_r)
    lines_half = np.where(by_row, half_r, half_c)
    first = 1.0 + centre + sign * offsets / (major * grid.pixel_mm) - slope * lines_half
    return first, slope


def _lines_where(
    above: tuple[Floats, Floats],
    below: tuple[Floats, Floats],
    low: float,
    high: NDArray[np.float64],
    count: NDArray[np.int_],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the lines on which ``above`` exceeds ``low`` and ``below`` stays under ``high``."""
    begin, end = np.zeros(count.shape), count.astype(np.float64)
    inside_low = (above[0] - low - _EDGE, above[1])  # at least zero, from line 0 on, where inside
    inside_high = (high - _EDGE - below[0], -below[1])
    for room, step in (inside_low, inside_high):
        flat = np.abs(step) < 1e-12
        at = -room / np.where(flat, 1.0, step)
        begin = np.where(~flat & (step > 0), np.maximum(begin, np.ceil(at)), begin)
        end = np.where(~flat & (step < 0), np.minimum(end, np.floor(at) + 1), end)
        end = np.where(flat & (room < 0), 0.0, end)
    start = np.clip(begin, 0, count)
    stop = np.clip(end, start, count)
    return start.astype(np.int32), stop.astype(np.int32)
