"""Triton kernels with one lane for each ray: they gather along it, and nothing is ever added twice.

Images come as the *lines* of `triton_backend`: all rows, then all columns, each with a zero on
both sides. A ray that is sampled by row and one that is sampled by column then differ only in
where they start and in their stride, and neighbours in a warp read neighbours in memory.
"""

import triton
import triton.language as tl

from fedm2ct.physics.projectors.triton_position import (
    batch_tile,
    bin_of_pixel,
    gather,
    gather_pair,
    ray_tile,
    store,
    view_values,
    within,
)

_MARGIN = tl.constexpr(0.01)


@triton.jit
def _lines_of(signed_length, rows, columns):
    """Return each ray's middle line, middle pixel, first line's place, and pixels on a line."""
    by_row = signed_length > 0
    width = tl.where(by_row, columns, rows)
    middle_line = tl.where(by_row, rows, columns) // 2
    first = tl.where(by_row, 0, rows * (columns + 2))
    return middle_line, width // 2 + 1, first, width


@triton.jit
def _padded_size(rows, columns):
    return rows * (columns + 2) + columns * (rows + 2)


@triton.jit
def _strip(table, rays, ray):
    """Load position and slope of a strip's lower edge, its extent and widening, and the length."""
    low, slope = tl.load(table + ray), tl.load(table + rays + ray)
    extent, widening = tl.load(table + 2 * rays + ray), tl.load(table + 3 * rays + ray)
    return low, slope, extent, widening, tl.load(table + 4 * rays + ray)


@triton.jit
def _widest(extent, widening, begin, end, middle_line):
    """Return the widest that any strip of the program is between its first and last line."""
    one = extent + widening * (begin - middle_line)
    other = extent + widening * (end - 1 - middle_line)
    return tl.max(tl.where(end > begin, tl.maximum(one, other), 0.0))


@triton.jit
def joseph(
    lines, table, spans, out,
    batch, views, bins, rows, columns,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Sum the pixels interpolated at each ray, line by line."""
    v, d, real = ray_tile(views, bins, BLOCK_V, BLOCK_D)
    work = table.dtype.element_ty
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, _padded_size(rows, columns), BLOCK_B)
    middle, slope = tl.load(table + ray), tl.load(table + rays + ray)
    length = tl.load(table + 2 * rays + ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, first, width = _lines_of(length, rows, columns)
    count = tl.where(real, tl.where(length > 0, rows, columns), 0)
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), work)
    for start in range(tl.min(begin), tl.max(end), UNROLL):
        for n in tl.static_range(UNROLL):
            i = start + n
            at = tl.fma(slope, (i - middle_line).to(work), middle)
            whole = tl.floor(at)
            k = whole.to(tl.int32) + middle_pixel
            met = (i < count) & within(k, width + 1)
            where = first + i * (width + 2) + k
            left, right = gather_pair(lines, images, exist, where, met, met, work)
            total += left + (at - whole)[None, :] * (right - left)
    store(out, total * tl.abs(length)[None, :], batch, rays, ray, real, BLOCK_B)


@triton.jit
def footprint(
    lines, table, spans, out,
    batch, views, bins, rows, columns,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sum the mean of what each bin covers of every line."""
    v, d, real = ray_tile(views, bins, BLOCK_V, BLOCK_D)
    work = table.dtype.element_ty
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, _padded_size(rows, columns), BLOCK_B)
    low, slope, extent, widening, length = _strip(table, rays, ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, first, width = _lines_of(length, rows, columns)
    pixels = tl.floor(_widest(extent, widening, begin, end, middle_line)).to(tl.int32) + 2
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), work)
    for i in range(tl.min(begin), tl.max(end)):
        line = (i - middle_line).to(work)
        met = real & (i >= begin) & (i < end)
        covered = tl.where(met, tl.fma(widening, line, extent), 1.0)
        at = tl.fma(slope, line, low) + 0.5  # pixel k covers k to k + 1
        whole = tl.floor(at)
        at -= whole
        k = whole.to(tl.int32) + middle_pixel
        scale = 1.0 / covered
        for n in range(pixels):
            share = tl.minimum(at + covered, n + 1.0) - tl.maximum(at, n)
            mask = met & (share > 0) & within(k + n - 1, width)
            where = first + i * (width + 2) + k + n
            value = gather(lines, images, exist, where, mask, work)
            total += tl.where(mask, share * scale, 0.0)[None, :] * value
    store(out, total * tl.abs(length)[None, :], batch, rays, ray, real, BLOCK_B)


@triton.jit
def _pixel_centre(by_row, i, k, rows, columns, work):
    """Return ``x, y`` of pixel ``k`` (from 1) of line ``i``."""
    column, row = tl.where(by_row, k - 1, i), tl.where(by_row, i, k - 1)
    return column.to(work) - (columns - 1) * 0.5, (rows - 1) * 0.5 - row.to(work)


@triton.jit
def backproject_adjoint(
    lines, view_table, table, spans, out,
    batch, views, bins, rows, columns,
    KIND: tl.constexpr, ATAN: tl.constexpr, ASIN: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sum the pixels that fall within a bin of each bin.

    They lie between the rays through the bin's two neighbours, whose crossings of each line bound
    the search; the weight is the one that `triton_pixels.backproject` gives the bin.
    """
    v, d, real = ray_tile(views, bins, BLOCK_V, BLOCK_D)
    work = table.dtype.element_ty
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, _padded_size(rows, columns), BLOCK_B)
    view = view_values(view_table, views, v)
    low, slope, extent, widening, length = _strip(table, rays, ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, first, width = _lines_of(length, rows, columns)
    most = _widest(extent, widening, begin, end, middle_line) + 2 * _MARGIN
    pixels = tl.floor(most).to(tl.int32) + 1
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), work)
    for i in range(tl.min(begin), tl.max(end)):
        at = tl.fma(slope, (i - middle_line).to(work), low)
        nearest = tl.ceil(at - _MARGIN).to(tl.int32) + middle_pixel
        met = real & (i >= begin) & (i < end)
        for n in range(pixels):
            k = nearest + n
            x, y = _pixel_centre(length > 0, i, k, rows, columns, work)
            at_bin, weight = bin_of_pixel(view, x, y, KIND, ATAN, ASIN)
            share = weight * (1.0 - tl.abs(at_bin - (d - bins // 2)))
            mask = met & (share > 0) & within(k - 1, width)
            value = gather(lines, images, exist, first + i * (width + 2) + k, mask, work)
            total += tl.where(mask, share, 0.0)[None, :] * value
    store(out, total, batch, rays, ray, real, BLOCK_B)
