"""What the Triton kernels read beside images and sinograms, in the kernels' own units.

Positions on the detector are in bins from bin ``bins // 2``, positions on a line of pixels in
pixels from pixel ``width // 2``, lines count from line ``count // 2``, and ``x, y`` are in pixels
from the isocentre. Near the middle of what they measure, float32 numbers are fine: half a unit in
the last place of a position on a line of 1024 pixels is 1.5e-5 pixels, where counting from the
corner would lose twice that at each of several roundings. Everything is computed in float64 here
and rounded once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.pixels import CURVED_SHIFTED, FLAT, PARALLEL, pixel_table
from fedm2ct.physics.projectors.rays import (
    Floats,
    RayTable,
    _lines_where,
    _positions,
    ray_lines,
    ray_table,
)

_SLACK = 0.01
"""Pixels by which a ray's range of lines is widened, so that rounding cannot cut it short."""
_MOST_TERMS = 24
_STEPS = 2.0**14

Series = tuple[float, ...]


@dataclass(frozen=True)
class ViewTable:
    """How every view maps the plane to the detector.

    Attributes
    ----------
    kind
        As in `fedm2ct.physics.projectors.pixels`.
    values
        Shape ``(10, views)``: cosine and sine of the view angle, rounded to 14 binary digits, and
        what that leaves; source along ``n`` and along ``e``; bins per unit of the detector
        coordinate, and that of its zero in bins; source along ``n`` and ``e`` as `CURVED_SHIFTED`
        needs it, from its nominal place over the source-to-detector distance.
    atan, asin
        Coefficients ``c`` of ``f(r) = r + r^3 * sum_k c_k r^(2k)``, for as many ``r`` as occur;
        empty where not needed. The same few terms on every device, where a library's differ.
    stretch
        Factor by which a flying focal spot may move a ray's neighbours further apart.
    """

    kind: int
    values: Tensor
    atan: Series
    asin: Series
    stretch: float


@dataclass(frozen=True)
class LineTable:
    """What every ray meets on its lines.

    Attributes
    ----------
    values
        Shape ``(3, rays)`` (`joseph_table`): position on the middle line, its change from line to
        line, and the ray's length in mm between two lines, negative where lines are columns. Shape
        ``(5, rays)`` (`strip_table`): position and change of the strip's lower edge, width on the
        middle line and its change, and the signed length.
    spans
        First line and line after the last, shape ``(2, rays)``, int32.
    """

    values: Tensor
    spans: Tensor


def view_table(
    geometry: Geometry, grid: ImageGrid, dtype: torch.dtype, device: torch.device
) -> ViewTable:
    """Compute how every view maps pixels to bins.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image, or its fan is too wide for the series.
    """
    p = pixel_table(geometry, grid)
    first = p.first - 1.0 - geometry.n_bins // 2
    shift, gain = np.full(geometry.n_views, first), np.full(geometry.n_views, p.scale)
    ahead = across = np.zeros(geometry.n_views)
    atan: Series = ()
    asin: Series = ()
    stretch = 1.0
    if p.kind == PARALLEL:
        gain = gain * grid.pixel_mm
    elif p.kind == FLAT:
        gain, shift = gain * (p.along + p.behind_mm), shift + p.across * p.scale
    else:
        atan = _series(np.arctan, _widest_tangent(p.along, p.across, grid), dtype)
    if p.kind == CURVED_SHIFTED:
        ahead = (p.detector_mm - p.behind_mm - p.along) / p.detector_mm
        across = p.across / p.detector_mm
        largest = float(np.hypot(ahead, across).max())
        asin = _series(np.arcsin, largest, dtype)
        stretch += largest / math.sqrt(1.0 - largest**2)
    source, aside = p.along / grid.pixel_mm, p.across / grid.pixel_mm
    cos, sin = (np.round(p.cos * _STEPS) / _STEPS, np.round(p.sin * _STEPS) / _STEPS)
    rests = p.cos - cos, p.sin - sin
    rows = np.stack([cos, sin, *rests, source, aside, gain, shift, ahead, across])
    return ViewTable(p.kind, _tensor(rows, dtype, device), atan, asin, stretch)


def joseph_table(
    geometry: Geometry, grid: ImageGrid, dtype: torch.dtype, device: torch.device
) -> LineTable:
    """Tabulate the rays through the bins' centres."""
    table = ray_table(geometry, grid)
    ray = table.first, table.slope
    count, width = _sides(table, grid)
    spans = _lines_where(ray, ray, -_SLACK, width + 1 + _SLACK, count)
    values = (*_from_middle(ray, count, width), _signed_length(table))
    return _on_device(values, spans, dtype, device)


def strip_table(
    geometry: Geometry, grid: ImageGrid, reach: float, dtype: torch.dtype, device: torch.device
) -> LineTable:
    """Tabulate the strips from ``reach`` bins below every bin's centre to as many above it."""
    table = ray_table(geometry, grid)
    count, width = _sides(table, grid)
    ends = [_positions(*ray_lines(geometry, at), table.by_row, grid) for at in (-reach, reach)]
    swap = ends[0][0] + ends[0][1] * (count / 2) > ends[1][0] + ends[1][1] * (count / 2)
    low = np.where(swap, ends[1][0], ends[0][0]), np.where(swap, ends[1][1], ends[0][1])
    high = np.where(swap, ends[0][0], ends[1][0]), np.where(swap, ends[0][1], ends[1][1])
    spans = _lines_where(high, low, 0.5 - _SLACK, width + 0.5 + _SLACK, count)
    middle, slope = _from_middle(low, count, width)
    upper, _ = _from_middle(high, count, width)
    values = (middle, slope, upper - middle, high[1] - low[1], _signed_length(table))
    return _on_device(values, spans, dtype, device)


def _sides(table: RayTable, grid: ImageGrid) -> tuple[NDArray[np.int_], Floats]:
    """Return each ray's number of lines, and of pixels on a line."""
    rows, columns = grid.shape
    width = np.where(table.by_row, columns, rows).astype(np.float64)
    return np.where(table.by_row, rows, columns), width


def _from_middle(
    ray: tuple[Floats, Floats], count: NDArray[np.int_], width: Floats
) -> tuple[Floats, Floats]:
    return ray[0] + ray[1] * (count // 2) - (1 + width // 2), ray[1]


def _signed_length(table: RayTable) -> Floats:
    return np.where(table.by_row, table.length_mm, -table.length_mm)


def _on_device(
    values: tuple[Floats, ...],
    spans: tuple[NDArray[np.int32], ...],
    dtype: torch.dtype,
    device: torch.device,
) -> LineTable:
    whole = np.stack([v.ravel() for v in values])
    ends = torch.from_numpy(np.stack([s.ravel() for s in spans])).to(device)
    return LineTable(_tensor(whole, dtype, device), ends)


def _tensor(array: Floats, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(dtype).to(device)


def _widest_tangent(along: Floats, across: Floats, grid: ImageGrid) -> float:
    """Bound the tangent of the angle, seen from any source, between a pixel and ``-n``."""
    radius = 0.5 * grid.pixel_mm * math.hypot(*grid.shape)
    angle = np.arcsin(radius / np.hypot(along, across)) + np.abs(np.arctan2(across, along))
    widest = float(angle.max())
    return math.tan(widest) if widest < math.pi / 2 else math.inf


def _series(f: Callable[[Floats], Floats], end: float, dtype: torch.dtype) -> Series:
    """Fit ``f(r) = r + r^3 c(r^2)`` on ``|r| <= end``, to the rounding of a dtype.

    The range is rounded up, so that one compiled kernel serves many geometries.
    """
    tolerance = 2e-15 if dtype == torch.float64 else 2e-8

    def rest(s: Floats) -> Floats:
        r = np.sqrt(s)
        return np.asarray((f(r) / r - 1.0) / s)

    if end < (0.75 if f is np.arcsin else 1.5):
        top = 2.0 ** max(-6, math.ceil(2 * math.log2(max(end, 1e-3))))
        check = np.linspace(1e-3, 1.0, 200) * end
        for terms in range(2, _MOST_TERMS + 1):
            fit = np.polynomial.Chebyshev.interpolate(rest, terms - 1, domain=[0.0, top])
            c = fit.convert(kind=np.polynomial.Polynomial).coef
            found = check + check**3 * np.polynomial.polynomial.polyval(check**2, c)
            if np.abs(found / f(check) - 1.0).max() < tolerance:
                return tuple(float(a) for a in c)
    raise ValueError(
        "the triton backend's series do not reach a curved detector with a fan as wide as this one "
        f"({f.__name__} of {end:g}); use backend='torch'"
    )
