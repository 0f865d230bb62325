"""CPU kernels of the pixel-driven back-projector, forward and transposed, on lanes (numba).

Where a pixel falls on a base view's detector, and its distance weight, are computed once for all
lanes. As in `ray_kernels`, a kernel writes only what belongs to its range.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fedm2ct.physics.projectors.lanes import (
    Array,
    Lanes,
    Views,
    add_rows,
    inline,
    jit,
    mirrored_rows,
    pack_rows,
    unpack_sinogram,
)
from fedm2ct.physics.projectors.pixels import CURVED_SHIFTED, FLAT, PARALLEL
from fedm2ct.physics.projectors.vectors import fill, load, multiply_add, store

_STRIDE = 32
"""The transpose takes every 32nd pixel of a row in turn.

Neighbours fall on the same bin: the sum that one has stored would be waited for by the next.
"""


class Pixels(NamedTuple):
    """A `PixelTable` of the base views, for kernels."""

    cos: Array
    sin: Array
    x: Array
    y: Array
    along: Array
    across: Array
    behind_mm: float
    detector_mm: float
    scale: float
    first: float
    bins: int
    atan: Array


@inline
def _on_detector(
    kind: int, g: int, i: int, p: Pixels, index: Array, low: Array, high: Array
) -> None:
    """Find each pixel of row ``i`` on base view ``g``'s padded detector.

    ``index`` is the bin before it, ``low`` and ``high`` are the distance weight times the share
    of that bin and of the next.
    """
    c, s, source, aside = p.cos[g], p.sin[g], p.along[g], p.across[g]
    top = np.float64(p.bins + 1)
    ahead = p.detector_mm - p.behind_mm - source
    for j in range(p.x.shape[0]):
        at = p.y[i] * c - p.x[j] * s
        weight = 1.0
        if kind != PARALLEL:
            near, side = 1.0 / (source - p.x[j] * c - p.y[i] * s), at - aside
            ratio = side * near
            if kind == FLAT:
                at = aside + ratio * (source + p.behind_mm)
                weight = source * near * source * near
            else:
                q = ratio * ratio
                weight = (source * source + aside * aside) * near * near / (1.0 + q)
                at = p.atan[12]
                for m in range(11, -1, -1):
                    at = at * q + p.atan[m]
                at *= ratio
                if kind == CURVED_SHIFTED:  # to the angle seen from the nominal source
                    z = (ahead * ratio - aside) / (np.sqrt(1.0 + q) * p.detector_mm)
                    at -= z * (1.0 + z * z * (1.0 / 6.0 + z * z * 3.0 / 40.0))  # arc sine
        k = min(max(p.first + at * p.scale, 0.0), top)
        n = min(np.int64(k), p.bins)
        index[j] = n
        low[j] = weight * (1.0 - (k - n))
        high[j] = weight * (k - n)


@cache
def pixel_kernels(lanes: int, kind: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the back-projector and its transpose for a number of lanes.

    ``lanes`` and ``kind`` are constants to the compiler, which would otherwise compute every kind
    of detector for each pixel.
    """

    @jit
    def forward(
        begin: int, end: int, packed: Array, rows: int, lane: Lanes, p: Pixels,
        plain: Array, turned: Array,
    ) -> None:  # fmt: skip
        groups, row = packed.shape[0], packed.shape[1] * lanes
        count, columns = p.y.shape[0], p.x.shape[0]
        block = np.empty((rows, columns + 2, lanes), packed.dtype)
        pixels, bins = block.reshape(-1), packed.reshape(-1)
        index = np.empty(columns, np.int64)
        low, high = np.empty(columns, packed.dtype), np.empty(columns, packed.dtype)
        for part in range(2 * begin, 2 * end):
            first, last = mirrored_rows(part, rows, count)
            block[:] = 0
            for g in range(groups):
                for i in range(first, last):
                    _on_detector(kind, g, i, p, index, low, high)
                    start = ((i - first) * (columns + 2) + 1) * lanes
                    for j in range(columns):
                        k = g * row + index[j] * lanes
                        at = start + j * lanes
                        total = load(pixels, at, lanes)
                        total = multiply_add(fill(low[j], lanes), load(bins, k, lanes), total)
                        k += lanes
                        total = multiply_add(fill(high[j], lanes), load(bins, k, lanes), total)
                        store(pixels, at, total)
            add_rows(block, lane, first, last, plain, turned)

    @jit
    def transposed(
        begin: int, end: int, images: Array, rows: int, lane: Lanes, p: Pixels,
        views: Views, packed: Array, out: Array,
    ) -> None:  # fmt: skip
        count, columns, padded = p.y.shape[0], p.x.shape[0], p.bins + 2
        block = np.empty((rows, columns + 2, lanes), images.dtype)
        pixels, bins = block.reshape(-1), packed.reshape(-1)
        index = np.empty(columns, np.int64)
        low, high = np.empty(columns, images.dtype), np.empty(columns, images.dtype)
        nothing = np.empty((0, 0), images.dtype)
        for first in range(0, count, rows):
            last = min(first + rows, count)
            pack_rows(images, lane, first, last, block)
            for g in range(begin, end):
                for i in range(first, last):
                    _on_detector(kind, g, i, p, index, low, high)
                    start = ((i - first) * (columns + 2) + 1) * lanes
                    for phase in range(_STRIDE):
                        for j in range(phase, columns, _STRIDE):
                            k = (g * padded + index[j]) * lanes
                            value = load(pixels, start + j * lanes, lanes)
                            old = load(bins, k, lanes)
                            store(bins, k, multiply_add(fill(low[j], lanes), value, old))
                            k += lanes
                            old = load(bins, k, lanes)
                            store(bins, k, multiply_add(fill(high[j], lanes), value, old))
        unpack_sinogram(begin, end, packed, nothing, views, lane, out)

    return forward, transposed
