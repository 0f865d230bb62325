"""Lanes in memory: copies of images and sinograms side by side, and the way back (numba).

A packed image block is ``(rows, columns + 2, lanes)``, padded by a pixel of zeros at either end of
each row; a packed sinogram is ``(groups, bins + 2 * pad, lanes)``. See `symmetry` for what a lane
is. Elements and views are data here, so that one compiled kernel serves every geometry.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.projectors.symmetry import Element, ViewGroups

Array = NDArray[Any]
FAST = {"reassoc", "contract", "arcp", "nsz"}  # not nnan, ninf: a NaN must come out as a NaN
jit = numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
inline = numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", inline="always")


class Lanes(NamedTuple):
    """What each lane holds; arrays of shape ``(lanes,)`` unless said otherwise.

    Attributes
    ----------
    image
        Index of its image in the batch, -1 where idle.
    transposed, rows_back, columns_back
        The element that makes the lane of its image.
    member
        Which of a group's views the lane gives, as an index into `ViewGroups.views`.
    slot
        Where the lane's sinogram value lies among the packed lanes, for rays of either axis:
        shape ``(2, lanes)``.
    """

    image: Array
    transposed: Array
    rows_back: Array
    columns_back: Array
    member: Array
    slot: Array


class Views(NamedTuple):
    """`ViewGroups` for kernels, and what a packed sinogram leaves out.

    Attributes
    ----------
    views, flips
        As in `ViewGroups`.
    twice
        The bin that halved groups give twice, -1 if none.
    axis
        0 where the ray is sampled by row, 1 where by column, shape ``(groups, bins)``; empty where
        that does not matter.
    wanted
        The axis whose rays are unpacked, 2 for both.
    """

    views: Array
    flips: Array
    twice: int
    axis: Array
    wanted: int


@lru_cache(maxsize=64)
def make_lanes(
    elements: tuple[Element, ...], slots: tuple[int, ...], images: int, lanes: int
) -> Lanes:
    """Lay out the elements of ``images`` images on ``lanes`` lanes; ``slots`` for the axis 1."""
    count = len(elements)
    image = np.full(lanes, -1, np.int64)
    image[: images * count] = np.repeat(np.arange(images), count)
    element = np.zeros((lanes, 3), np.uint8)
    element[: images * count] = np.tile(np.array(elements, np.uint8), (images, 1))
    member = np.arange(lanes) % count
    first = np.arange(lanes) - member
    slot = np.stack([np.arange(lanes), first + np.array(slots)[member]])
    transposed, rows_back, columns_back = (np.ascontiguousarray(column) for column in element.T)
    slot = np.minimum(slot, lanes - 1)
    return Lanes(image, transposed, rows_back, columns_back, member, slot)


def make_views(groups: ViewGroups, bins: int, axis: Array, wanted: int) -> Views:
    """Put groups into the form that kernels take."""
    twice = bins // 2 if groups.halved and bins % 2 else -1
    return Views(groups.views, groups.flips, twice, axis, wanted)


@jit
def pack_rows(images: Array, lanes: Lanes, begin: int, end: int, block: Array) -> None:
    """Copy rows ``begin:end`` of every lane of ``images (B, R, C)`` to a block."""
    columns = block.shape[1] - 2
    for n in range(block.shape[2]):
        image = lanes.image[n]
        back = lanes.columns_back[n]
        if image < 0:
            block[:, :, n] = 0
            continue
        block[:, 0, n] = 0
        block[:, columns + 1, n] = 0
        if lanes.transposed[n]:
            rows = images.shape[2]
            for k in range(columns):
                line = images[image, columns - 1 - k if back else k]
                if lanes.rows_back[n]:
                    for i in range(begin, end):
                        block[i - begin, k + 1, n] = line[rows - 1 - i]
                else:
                    for i in range(begin, end):
                        block[i - begin, k + 1, n] = line[i]
            continue
        rows = images.shape[1]
        for i in range(begin, end):
            line = images[image, rows - 1 - i if lanes.rows_back[n] else i]
            if back:
                for k in range(columns):
                    block[i - begin, k + 1, n] = line[columns - 1 - k]
            else:
                for k in range(columns):
                    block[i - begin, k + 1, n] = line[k]


@jit
def add_rows(block: Array, lanes: Lanes, begin: int, end: int, plain: Array, turned: Array) -> None:
    """Add rows ``begin:end`` of every lane to its image: transpose of `pack_rows`.

    Transposed lanes are added to ``turned (B, C, R)``, the others to ``plain (B, R, C)``: so lane
    row ``i`` meets no other row of either than ``i`` and its mirror image.
    """
    columns = block.shape[1] - 2
    for n in range(block.shape[2]):
        image = lanes.image[n]
        if image < 0:
            continue
        target = turned[image] if lanes.transposed[n] else plain[image]
        rows = target.shape[0]
        for i in range(begin, end):
            line = target[rows - 1 - i if lanes.rows_back[n] else i]
            if lanes.columns_back[n]:
                for k in range(columns):
                    line[columns - 1 - k] += block[i - begin, k + 1, n]
            else:
                for k in range(columns):
                    line[k] += block[i - begin, k + 1, n]


@jit
def mirrored_rows(part: int, rows: int, count: int) -> tuple[int, int]:
    """Return the begin and end of a block of rows; blocks ``2 p`` and ``2 p + 1`` are mirrored.

    A thread that owns both owns every row of an image that they are added to by `add_rows`.
    """
    half = (count + 1) // 2
    begin = (part // 2) * rows
    end = min(begin + rows, half)
    if part % 2:
        return max(count - end, half), count - begin
    return begin, end


@jit
def pack_sinogram(
    begin: int,
    end: int,
    sinograms: Array,
    lengths: Array,
    weights: Array,
    views: Views,
    lanes: Lanes,
    packed: Array,
) -> None:
    """Fill groups ``begin:end`` of a packed sinogram from ``sinograms (B, V, D)``.

    Values are multiplied by ``lengths (groups, bins)`` and by ``weights (V, D)`` where these are
    not empty.
    """
    bins = sinograms.shape[2]
    size = lengths.shape[1] if lengths.size else bins
    pad = (packed.shape[1] - size) // 2
    for g in range(begin, end):
        packed[g] = 0
        for n in range(packed.shape[2]):
            image, view = lanes.image[n], views.views[g, lanes.member[n]]
            if image < 0 or view < 0:
                continue
            flip = views.flips[g, lanes.member[n]]
            for d in range(size):
                if flip and d == views.twice:
                    continue
                at = bins - 1 - d if flip else d
                value = sinograms[image, view, at]
                if lengths.size:
                    value *= lengths[g, d]
                if weights.size:
                    value *= weights[view, at]
                slot = lanes.slot[views.axis[g, d], n] if views.axis.size else n
                packed[g, d + pad, slot] = value


@jit
def unpack_sinogram(
    begin: int,
    end: int,
    packed: Array,
    lengths: Array,
    views: Views,
    lanes: Lanes,
    sinograms: Array,
) -> None:
    """Write groups ``begin:end`` of a packed sinogram to ``sinograms (B, V, D)``.

    Values are multiplied by ``lengths (groups, bins)`` where these are not empty.
    """
    bins = sinograms.shape[2]
    size = lengths.shape[1] if lengths.size else bins
    pad = (packed.shape[1] - size) // 2
    for g in range(begin, end):
        for n in range(packed.shape[2]):
            image, view = lanes.image[n], views.views[g, lanes.member[n]]
            if image < 0 or view < 0:
                continue
            flip = views.flips[g, lanes.member[n]]
            for d in range(size):
                axis = views.axis[g, d] if views.axis.size else 0
                if views.wanted < 2 and axis != views.wanted:
                    continue
                value = packed[g, d + pad, lanes.slot[axis, n]]
                if lengths.size:
                    value *= lengths[g, d]
                sinograms[image, view, bins - 1 - d if flip else d] = value
