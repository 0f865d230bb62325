"""CPU kernels (numba): Joseph's projector and the pixel-driven back-projector, with transposes.

Batches are the last axis, so that indices and weights are computed once for the whole batch. Each
kernel works on a range of its outermost *output* index and writes nothing else: ranges can run in
any number of threads, without locks, and the result does not depend on how the work was cut.

``rays`` are the arrays of a `RayTable`, ``pixels`` the values of a `PixelTable`, in their order.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Table = tuple[Any, ...]

_FAST = {"reassoc", "contract", "arcp", "nsz"}  # not nnan, ninf: a NaN must come out as a NaN
_jit = numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
_inline = numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", inline="always")


@_jit
def joseph_forward(
    begin: int, end: int, image: Array, image_t: Array, rays: Table, out: Array
) -> None:
    """Fill views ``begin:end`` of ``out (V, D, B)`` with line integrals.

    ``image (R, C+2, B)`` and its transpose ``image_t (C, R+2, B)`` are padded along the rows.
    """
    by_row, first, slope, length, start, stop = rays
    batch = image.shape[2]
    for v in range(begin, end):
        for d in range(out.shape[1]):
            lines = image if by_row[v, d] else image_t
            f, s = first[v, d], slope[v, d]
            total = out.dtype.type(0)
            for i in range(start[v, d], stop[v, d]):
                c = f + s * i
                k = np.int64(c)
                w = out.dtype.type(c - k)
                if batch == 1:
                    a = lines[i, k, 0]
                    total += a + w * (lines[i, k + 1, 0] - a)
                    continue
                for b in range(batch):
                    a = lines[i, k, b]
                    out[v, d, b] += a + w * (lines[i, k + 1, b] - a)
            if batch == 1:
                out[v, d, 0] = total
            for b in range(batch):
                out[v, d, b] *= length[v, d]


@_jit
def joseph_adjoint(
    begin: int, end: int, rows: bool, sinogram: Array, rays: Table, out: Array
) -> None:
    """Add to lines ``begin:end`` of the padded ``out (lines, C+2, B)``.

    Only rays sampled by row count if ``rows``, else only those sampled by column; ``sinogram`` is
    ``(V, D, B)``.
    """
    by_row, first, slope, length, start, stop = rays
    batch = out.shape[2]
    for v in range(sinogram.shape[0]):
        for d in range(sinogram.shape[1]):
            if by_row[v, d] != rows:
                continue
            f, s = first[v, d], slope[v, d]
            step = out.dtype.type(length[v, d])
            for i in range(max(begin, start[v, d]), min(end, stop[v, d])):
                c = f + s * i
                k = np.int64(c)
                w = out.dtype.type(c - k)
                if batch == 1:
                    g = sinogram[v, d, 0] * step
                    out[i, k, 0] += g - w * g
                    out[i, k + 1, 0] += w * g
                    continue
                for b in range(batch):
                    g = sinogram[v, d, b] * step
                    out[i, k, b] += g - w * g
                    out[i, k + 1, b] += w * g


@_inline
def _row_on_detector(
    v: int, i: int, pixels: Table, bin_of: Array, frac: Array, weight: Array
) -> None:
    """Find padded bin, fraction to the next bin and distance weight of row ``i`` in view ``v``."""
    kind, cos, sin, x, y, source, scale, first, bins, atan = pixels
    c, s = cos[v], sin[v]
    top = np.float64(bins + 1)
    for j in range(x.shape[0]):
        t = y[i] * c - x[j] * s
        w = 1.0
        if kind > 0:
            u = source - x[j] * c - y[i] * s
            r = t / u
            if kind == 1:
                t = r
                w = (source / u) * (source / u)
            else:
                q = r * r
                w = source * source / (u * u + t * t)
                p = atan[12]
                for m in range(11, -1, -1):
                    p = p * q + atan[m]
                t = r * p
        k = first + t * scale
        k = min(max(k, 0.0), top)
        n = min(np.int32(k), np.int32(bins))
        bin_of[j] = n
        frac[j] = k - n
        weight[j] = w


@_jit
def pixel_forward(begin: int, end: int, sinogram: Array, pixels: Table, out: Array) -> None:
    """Fill rows ``begin:end`` of ``out (R, C, B)`` from the padded ``sinogram (V, D+2, B)``."""
    columns, batch = out.shape[1], out.shape[2]
    bin_of = np.empty(columns, np.int32)
    frac = np.empty(columns, out.dtype)
    weight = np.empty(columns, out.dtype)
    for i in range(begin, end):
        for v in range(sinogram.shape[0]):
            _row_on_detector(v, i, pixels, bin_of, frac, weight)
            for j in range(columns):
                n, f, w = bin_of[j], frac[j], weight[j]
                if batch == 1:
                    a = sinogram[v, n, 0]
                    out[i, j, 0] += w * (a + f * (sinogram[v, n + 1, 0] - a))
                    continue
                for b in range(batch):
                    a = sinogram[v, n, b]
                    out[i, j, b] += w * (a + f * (sinogram[v, n + 1, b] - a))


@_jit
def pixel_adjoint(begin: int, end: int, image: Array, pixels: Table, out: Array) -> None:
    """Fill views ``begin:end`` of the padded ``out (V, D+2, B)`` from ``image (R, C, B)``."""
    columns, batch = image.shape[1], image.shape[2]
    bin_of = np.empty(columns, np.int32)
    frac = np.empty(columns, out.dtype)
    weight = np.empty(columns, out.dtype)
    for v in range(begin, end):
        for i in range(image.shape[0]):
            _row_on_detector(v, i, pixels, bin_of, frac, weight)
            for j in range(columns):
                n, f, w = bin_of[j], frac[j], weight[j]
                if batch == 1:
                    g = w * image[i, j, 0]
                    out[v, n, 0] += g - f * g
                    out[v, n + 1, 0] += f * g
                    continue
                for b in range(batch):
                    g = w * image[i, j, b]
                    out[v, n, b] += g - f * g
                    out[v, n + 1, b] += f * g
