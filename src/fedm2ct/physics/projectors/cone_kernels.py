"""Cone-beam kernels (numba): Joseph's projector, voxel-driven back-projection, and transposes.

Heights are the innermost axis of every array. All rays from a source to one column of the
detector run in one upright plane, and all voxels of one column of the volume are seen in one
upright plane: in the other two coordinates they share indices and weights. So each step blends
two columns (`_blend`, contiguous) and reads the result at equally spaced heights (`_read`), or
does the transposes of both (`_spread`, `_deposit`).

Each kernel works on a range of its outermost *output* index and writes nothing else: ranges can
run in any number of threads, without locks, and the result does not depend on the cut.

Inner loops count in unsigned integers: numba checks signed ones for negative indices, which keeps
the compiler from using vector instructions (measured: a factor of two).

``scan``, ``grid`` and ``detector`` are the tuples of `ConeBackend`, which names their values.
"""

from typing import Any

import numpy as np

from fedm2ct.physics.projectors.lanes import Array
from fedm2ct.physics.projectors.lanes import inline as _inline
from fedm2ct.physics.projectors.lanes import jit as _jit

Table = tuple[Any, ...]


@_inline
def _inside(first: float, step: float, count: int, width: int) -> tuple[Any, Any]:
    """Find the ``start <= i < stop`` of ``count`` with ``0 < first + step * i < width + 1``."""
    begin: Any = 0.0
    end: Any = np.float64(count)
    if step == 0.0:
        if not 0.0 < first < width + 1.0:
            end = 0.0
    else:
        a, b = -first / step, (width + 1.0 - first) / step
        begin = max(begin, np.ceil(min(a, b)))
        end = min(end, np.floor(max(a, b)) + 1.0)
    return np.int64(begin), np.int64(max(begin, end))


@_inline
def _path(v: int, c: int, scan: Table, grid: Table) -> Table:
    """Follow the rays of view ``v`` to detector column ``c`` through the plane, line by line.

    Returns position on line 0 and its step, part of the way to the detector and its step, line
    count and width, and where the lines' pixels lie in the padded plane: origin, stride from
    line to line, stride along a line.
    """
    sx, sy, cos, sin, along, across = scan[:6]
    rows, columns, pixel = grid[:3]
    dx = along[c] * cos[v] - across[c] * sin[v] - sx[v]
    dy = along[c] * sin[v] + across[c] * cos[v] - sy[v]
    half_r, half_c = 0.5 * (rows - 1), 0.5 * (columns - 1)
    if abs(dy) >= abs(dx):
        t, dt = (half_r * pixel - sy[v]) / dy, -pixel / dy
        first = 1.0 + half_c + (sx[v] + t * dx) / pixel
        return first, dt * dx / pixel, t, dt, rows, columns, columns + 2, columns + 2, 1
    t, dt = (-half_c * pixel - sx[v]) / dx, pixel / dx
    first = 1.0 + half_r - (sy[v] + t * dy) / pixel
    return first, -dt * dy / pixel, t, dt, columns, rows, 1, 1, columns + 2


@_inline
def _lengths(v: int, c: int, dt: float, scan: Table, out: Array) -> None:
    """Fill ``out (R)`` with the length in mm of each row's ray between two lines."""
    sx, sy, cos, sin, along, across, sz, dz, pitch = scan
    dx = along[c] * cos[v] - across[c] * sin[v] - sx[v]
    dy = along[c] * sin[v] + across[c] * cos[v] - sy[v]
    for r in range(out.shape[0]):
        rise = dz[v] + r * pitch - sz[v]
        out[r] = abs(dt) * np.sqrt(dx * dx + dy * dy + rise * rise)


@_inline
def _slices_met(t: float, v: int, scan: Table, grid: Table) -> tuple[float, float]:
    """Return the padded slice that row 0's ray meets at ``t`` of its way, and the step by row."""
    sz, dz, pitch = scan[6:]
    z, slice_mm = grid[4:]
    return 1.0 + (sz[v] + t * (dz[v] - sz[v]) - z) / slice_mm, t * pitch / slice_mm


@_inline
def _seen(v: int, x: float, y: float, scan: Table, detector: Table) -> tuple[float, float, float]:
    """Project the voxels above ``(x, y)``.

    Returns the padded detector column, the distance weight, and the source-to-detector distance
    over that to the voxel, both in the plane.
    """
    sx, sy, cos, sin = scan[:4]
    curved, shifted, sid, sdd, first, pitch = detector
    ahead = sx[v] * cos[v] + sy[v] * sin[v]
    aside = sy[v] * cos[v] - sx[v] * sin[v]
    depth = ahead - x * cos[v] - y * sin[v]
    side = y * cos[v] - x * sin[v] - aside
    if not curved:
        t = (ahead + sdd - sid) / depth
        return 1.0 + (aside + t * side - first) / pitch, (ahead / depth) ** 2, t
    far = np.sqrt(depth * depth + side * side)
    angle, reach = np.arctan2(side, depth), sdd
    if shifted:  # the ray's angle at the detector's axis differs from that at the source
        nearer = sid - ahead
        turned = angle - np.arcsin((nearer * side - aside * depth) / (far * sdd))
        reach = sdd * np.cos(angle - turned) - (nearer * depth + aside * side) / far
        angle = turned
    weight = (ahead * ahead + aside * aside) / (far * far)
    return 1.0 + (sdd * angle - first) / pitch, weight, reach / far


@_inline
def _rows_met(t: float, v: int, scan: Table, grid: Table) -> tuple[float, float]:
    """Return the padded detector row that sees slice 0 magnified by ``t``, and the step."""
    sz, dz, pitch = scan[6:]
    z, slice_mm = grid[4:]
    return 1.0 + (sz[v] + t * (z - sz[v]) - dz[v]) / pitch, t * slice_mm / pitch


@_inline
def _blend(
    p: Array, q: Array, a: float, b: float, low: float, step: float, i: int, j: int, out: Array
) -> None:
    """Fill ``out`` with ``a p + b q`` where ``low + step * n`` for ``i <= n < j`` falls."""
    for k in range(np.uint64(low + step * i), np.uint64(low + step * (j - 1) + 2.0)):
        out[k] = a * p[k] + b * q[k]


@_inline
def _read(line: Array, low: float, step: float, i: int, j: int, weights: Array, out: Array) -> None:
    """Add ``line`` at ``low + step * n``, interpolated and weighted, to ``out[n]``, i <= n < j."""
    for n in range(np.uint64(i), np.uint64(j)):
        at = low + step * n
        k = np.uint64(np.int64(at))
        f = out.dtype.type(at - k)
        out[n] += weights[n] * (line[k] + f * (line[k + np.uint64(1)] - line[k]))


@_inline
def _deposit(
    values: Array, weights: Array, low: float, step: float, i: int, j: int, line: Array
) -> None:
    """Transpose `_read` into a cleared line."""
    for k in range(np.uint64(low + step * i), np.uint64(low + step * (j - 1) + 2.0)):
        line[k] = 0
    for n in range(np.uint64(i), np.uint64(j)):
        at = low + step * n
        left = np.uint64(np.int64(at))
        value = weights[n] * values[n]
        right = line.dtype.type(at - left) * value
        line[left] += value - right
        line[left + np.uint64(1)] += right


@_inline
def _spread(
    line: Array, a: float, b: float, low: float, step: float, i: int, j: int, p: Array, q: Array
) -> None:
    """Transpose `_blend`, adding to ``p`` and ``q``."""
    for k in range(np.uint64(low + step * i), np.uint64(low + step * (j - 1) + 2.0)):
        p[k] += a * line[k]
        q[k] += b * line[k]


@_jit
def joseph_forward(
    begin: int, end: int, volume: Array, scan: Table, grid: Table, out: Array
) -> None:
    """Fill views ``begin:end`` of ``out (B, V, C, R)`` with line integrals.

    ``volume (B, (rows + 2) * (columns + 2), slices + 3)`` is padded by one voxel on every side,
    and once more above.
    """
    slices, rows, kind = grid[3], out.shape[3], out.dtype.type
    line = np.zeros(volume.shape[2], out.dtype)
    length = np.empty(rows, out.dtype)
    for v in range(begin, end):
        for c in range(out.shape[2]):
            first, slope, t, dt, lines, width, origin, major, minor = _path(v, c, scan, grid)
            start, stop = _inside(first, slope, lines, width)
            _lengths(v, c, dt, scan, length)
            for m in range(start, stop):
                at = first + slope * m
                k = min(np.int64(at), width)
                a, b = kind(1.0 - (at - k)), kind(at - k)
                p = origin + m * major + k * minor
                low, step = _slices_met(t + dt * m, v, scan, grid)
                i, j = _inside(low, step, rows, slices)
                for n in range(volume.shape[0] if i < j else 0):
                    _blend(volume[n, p], volume[n, p + minor], a, b, low, step, i, j, line)
                    _read(line, low, step, i, j, length, out[n, v, c])


@_jit
def joseph_adjoint(
    begin: int, end: int, by_row: bool, rays: Array, scan: Table, grid: Table, out: Array
) -> None:
    """Add to lines ``begin:end`` of the padded volume ``out``: `joseph_forward`, transposed.

    Lines are rows if ``by_row``, else columns, and only rays sampled on such lines count;
    ``rays`` is ``(B, V, C, R)``.
    """
    slices, rows, kind = grid[3], rays.shape[3], out.dtype.type
    line = np.zeros(out.shape[2], out.dtype)
    length = np.empty(rows, out.dtype)
    for v in range(rays.shape[1]):
        for c in range(rays.shape[2]):
            first, slope, t, dt, lines, width, origin, major, minor = _path(v, c, scan, grid)
            start, stop = _inside(first, slope, lines, width)
            start, stop = max(start, begin), min(stop, end)
            if start >= stop or (minor == 1) != by_row:
                continue
            _lengths(v, c, dt, scan, length)
            for m in range(start, stop):
                at = first + slope * m
                k = min(np.int64(at), width)
                a, b = kind(1.0 - (at - k)), kind(at - k)
                p = origin + m * major + k * minor
                low, step = _slices_met(t + dt * m, v, scan, grid)
                i, j = _inside(low, step, rows, slices)
                for n in range(out.shape[0] if i < j else 0):
                    _deposit(rays[n, v, c], length, low, step, i, j, line)
                    _spread(line, a, b, low, step, i, j, out[n, p], out[n, p + minor])


@_jit
def voxel_forward(
    begin: int, end: int, rays: Array, scan: Table, grid: Table, detector: Table, out: Array
) -> None:
    """Fill rows ``begin:end`` of ``out (B, rows, columns, S)`` from padded projections.

    ``rays`` is ``(B, V, C + 2, R + 3)``. Slices ``first[v] <= k < last[v]`` get view ``v``, each
    times ``shares[v, k]`` or, for all views alike, ``shares[0, k]``; these three are the end of
    ``detector``.
    """
    rows, columns, pixel = grid[:3]
    shares, first, last = detector[6:]
    kind = out.dtype.type
    bins, heights = rays.shape[2] - 2, rays.shape[3] - 3
    line = np.zeros(rays.shape[3], out.dtype)
    for y in range(begin, end):
        for v in range(rays.shape[1]):
            for x in range(columns):
                at, weight, t = _seen(
                    v, (x - 0.5 * (columns - 1)) * pixel, (0.5 * (rows - 1) - y) * pixel,
                    scan, detector[:6],
                )  # fmt: skip
                if not 0.0 < at < bins + 1.0:
                    continue
                c = np.int64(at)
                a, b = kind(weight * (1.0 - (at - c))), kind(weight * (at - c))
                low, step = _rows_met(t, v, scan, grid)
                i, j = _inside(low, step, out.shape[3], heights)
                i, j = max(i, first[v]), min(j, last[v])
                share = shares[v if shares.shape[0] > 1 else 0]
                for n in range(rays.shape[0] if i < j else 0):
                    _blend(rays[n, v, c], rays[n, v, c + 1], a, b, low, step, i, j, line)
                    _read(line, low, step, i, j, share, out[n, y, x])


@_jit
def voxel_adjoint(
    begin: int, end: int, volume: Array, scan: Table, grid: Table, detector: Table, out: Array
) -> None:
    """Fill views ``begin:end`` of the padded projections ``out``: `voxel_forward`, transposed."""
    rows, columns, pixel = grid[:3]
    shares, first, last = detector[6:]
    kind = out.dtype.type
    bins, heights = out.shape[2] - 2, out.shape[3] - 3
    line = np.zeros(out.shape[3], out.dtype)
    for v in range(begin, end):
        for y in range(rows):
            for x in range(columns):
                at, weight, t = _seen(
                    v, (x - 0.5 * (columns - 1)) * pixel, (0.5 * (rows - 1) - y) * pixel,
                    scan, detector[:6],
                )  # fmt: skip
                if not 0.0 < at < bins + 1.0:
                    continue
                c = np.int64(at)
                a, b = kind(weight * (1.0 - (at - c))), kind(weight * (at - c))
                low, step = _rows_met(t, v, scan, grid)
                i, j = _inside(low, step, volume.shape[3], heights)
                i, j = max(i, first[v]), min(j, last[v])
                share = shares[v if shares.shape[0] > 1 else 0]
                for n in range(out.shape[0] if i < j else 0):
                    _deposit(volume[n, y, x], share, low, step, i, j, line)
                    _spread(line, a, b, low, step, i, j, out[n, v, c], out[n, v, c + 1])
