"""CPU kernels of the projector, forward and transposed, on lanes (numba).

Each block of image rows is packed where the second-level cache holds it, and every ray is followed
through it; the position of a ray on a row is computed once for all lanes. Kernels write only what
belongs to their range (of groups, or of pairs of row blocks), so ranges can run in any number of
threads, and the result does not depend on how the work was cut.
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
from fedm2ct.physics.projectors.vectors import fill, load, multiply_add, store


class Rays(NamedTuple):
    """The base views' rays, all sampled by row of their lanes; see `RayTable`.

    Attributes
    ----------
    at
        First position and slope; for footprints those of the lower, then of the upper edge:
        shape ``(2 or 4, groups, bins)``.
    start, stop
        The rows on which they meet the image, shape ``(groups, bins)``.
    lengths
        Length between two rows in mm, shape ``(groups, bins)``.
    taps
        How many pixels of a row a bin may see.
    """

    at: Array
    start: Array
    stop: Array
    lengths: Array
    taps: int


class Samples(NamedTuple):
    """A ray's samples in one block of rows.

    Attributes
    ----------
    offsets
        Where the first of the pixels that a row's sample reads lies in the block.
    weights
        The pixels' weights, shape ``(taps, rows)``: two taps for Joseph's method, as many as the
        widest footprint can touch for the distance-driven one.
    scale
        One over the footprint's width, shape ``(rows,)``.
    """

    offsets: Array
    weights: Array
    scale: Array


@inline
def _joseph_samples(
    at: Array, g: int, d: int, first: int, begin: int, end: int, row: int, lanes: int, s: Samples
) -> None:
    """Find the samples of the rows ``begin:end`` of a block that begins at ``first``."""
    position, slope = at[0, g, d], at[1, g, d]
    for i in range(begin, end):
        c = position + slope * i
        k = np.int64(c)
        s.offsets[i - begin] = (i - first) * row + k * lanes
        s.weights[0, i - begin] = 1.0 - (c - k)
        s.weights[1, i - begin] = c - k


@inline
def _footprint_samples(
    at: Array, g: int, d: int, first: int, begin: int, end: int, row: int, lanes: int, s: Samples
) -> None:
    """Find the samples of the rows ``begin:end``; here pixel ``k`` covers ``k`` to ``k + 1``."""
    width = row // lanes - 2
    last = max(width - s.weights.shape[0], 0)
    low, low_slope, high, high_slope = at[0, g, d], at[1, g, d], at[2, g, d], at[3, g, d]
    for i in range(begin, end):
        left = low + low_slope * i - 0.5
        s.offsets[i - begin] = (i - first) * row + (min(np.int64(max(left, 0.0)), last) + 1) * lanes
        s.scale[i - begin] = 1.0 / (high - low + (high_slope - low_slope) * i)
    for n in range(s.weights.shape[0]):
        for i in range(begin, end):
            left, right = low + low_slope * i - 0.5, high + high_slope * i - 0.5
            k = min(np.int64(max(left, 0.0)), last) + n
            share = min(right, k + 1.0) - max(left, np.float64(k))
            s.weights[n, i - begin] = max(share, 0.0) * s.scale[i - begin]


@cache
def ray_kernels(lanes: int, joseph: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the projector and its transpose for a number of lanes.

    ``lanes`` and ``joseph`` (otherwise distance-driven) are constants to the compiler.
    """

    @jit
    def forward(
        begin: int, end: int, images: Array, rows: int, lane: Lanes, rays: Rays,
        views: Views, shape: tuple[int, int], packed: Array, out: Array,
    ) -> None:  # fmt: skip
        bins, row = rays.start.shape[1], (shape[1] + 2) * lanes
        block = np.empty((rows, shape[1] + 2, lanes), images.dtype)
        pixels, sums = block.reshape(-1), packed.reshape(-1)
        weights = np.empty((rays.taps, rows), images.dtype)
        s = Samples(np.empty(rows, np.int64), weights, np.empty(rows, images.dtype))
        zero, one = fill(images.dtype.type(0), lanes), fill(images.dtype.type(1), lanes)
        for first in range(0, shape[0], rows):
            last = min(first + rows, shape[0])
            pack_rows(images, lane, first, last, block)
            for g in range(begin, end):
                for d in range(bins):
                    a, b = max(first, rays.start[g, d]), min(last, rays.stop[g, d])
                    if a >= b:
                        continue
                    where = (g * bins + d) * lanes
                    total, other = load(sums, where, lanes), zero
                    if joseph:  # two sums, so that neither waits for the other
                        _joseph_samples(rays.at, g, d, first, a, b, row, lanes, s)
                        for i in range(b - a):
                            k, low, high = s.offsets[i], s.weights[0, i], s.weights[1, i]
                            total = multiply_add(fill(low, lanes), load(pixels, k, lanes), total)
                            k += lanes
                            other = multiply_add(fill(high, lanes), load(pixels, k, lanes), other)
                    else:
                        _footprint_samples(rays.at, g, d, first, a, b, row, lanes, s)
                        for i in range(b - a):
                            k, own = s.offsets[i], zero
                            for n in range(rays.taps):
                                share = fill(s.weights[n, i], lanes)
                                own = multiply_add(share, load(pixels, k, lanes), own)
                                k += lanes
                            total = multiply_add(one, own, total)
                    store(sums, where, multiply_add(one, other, total))
        unpack_sinogram(begin, end, packed, rays.lengths, views, lane, out)

    @jit
    def transposed(
        begin: int, end: int, packed: Array, rows: int, lane: Lanes, rays: Rays,
        shape: tuple[int, int], plain: Array, turned: Array,
    ) -> None:  # fmt: skip
        groups, bins = rays.start.shape
        row = (shape[1] + 2) * lanes
        block = np.empty((rows, shape[1] + 2, lanes), packed.dtype)
        pixels, sums = block.reshape(-1), packed.reshape(-1)
        weights = np.empty((rays.taps, rows), packed.dtype)
        s = Samples(np.empty(rows, np.int64), weights, np.empty(rows, packed.dtype))
        for part in range(2 * begin, 2 * end):
            first, last = mirrored_rows(part, rows, shape[0])
            block[:] = 0
            for g in range(groups):
                for d in range(bins):
                    a, b = max(first, rays.start[g, d]), min(last, rays.stop[g, d])
                    if a >= b:
                        continue
                    value = load(sums, (g * bins + d) * lanes, lanes)
                    if joseph:
                        _joseph_samples(rays.at, g, d, first, a, b, row, lanes, s)
                        taps = 2
                    else:
                        _footprint_samples(rays.at, g, d, first, a, b, row, lanes, s)
                        taps = rays.taps
                    for i in range(b - a):
                        k = s.offsets[i]
                        for n in range(taps):
                            share, old = fill(s.weights[n, i], lanes), load(pixels, k, lanes)
                            store(pixels, k, multiply_add(share, value, old))
                            k += lanes
            add_rows(block, lane, first, last, plain, turned)

    return forward, transposed
