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
    ray_tile,
    view_values,
)

_MARGIN = tl.constexpr(0.01)


@triton.jit
def _lines_of(signed_length, rows, columns):
    """Return each ray's middle line and middle pixel, where its lines begin, and their stride."""
    by_row = signed_length > 0
    width = tl.where(by_row, columns, rows)
    middle_line = tl.where(by_row, rows, columns) // 2
    begin = tl.where(by_row, 0, rows * (columns + 2))
    return middle_line, width // 2 + 1, begin, width


@triton.jit
def joseph(
    lines, table, spans, out,
    batch, views, bins, rows, columns,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Sum the pixels interpolated at each ray, line by line."""
    v, d, real = ray_tile(views, bins, BLOCK_V, BLOCK_D)
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, rows * (columns + 2) + columns * (rows + 2), BLOCK_B)
    middle, slope = tl.load(table + ray), tl.load(table + rays + ray)
    length = tl.load(table + 2 * rays + ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, offset, width = _lines_of(length, rows, columns)
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), table.dtype.element_ty)
    for start in range(tl.min(begin), tl.max(end), UNROLL):
        for n in tl.static_range(UNROLL):
            i = start + n
            at = tl.fma(slope, (i - middle_line).to(slope.dtype), middle)
            whole = tl.floor(at)
            k = whole.to(tl.int32) + middle_pixel
            met = real & (i >= begin) & (i < end) & (k >= 0) & (k <= width)
            where = images + (offset + i * (width + 2) + k)[None, :]
            mask = exist & met[None, :]
            left = tl.load(lines + where, mask=mask, other=0.0).to(slope.dtype)
            right = tl.load(lines + where + 1, mask=mask, other=0.0).to(slope.dtype)
            total += left + (at - whole)[None, :] * (right - left)
    total *= tl.abs(length)[None, :]
    sinograms, _ = batch_tile(batch, rays, BLOCK_B)
    tl.store(
        out + sinograms + ray[None, :],
        total.to(out.dtype.element_ty),
        mask=exist & real[None, :],
    )


@triton.jit
def footprint(
    lines, table, spans, out,
    batch, views, bins, rows, columns,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sum the mean of what each bin covers of every line."""
    v, d, real = ray_tile(views, bins, BLOCK_V, BLOCK_D)
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, rows * (columns + 2) + columns * (rows + 2), BLOCK_B)
    low, slope = tl.load(table + ray), tl.load(table + rays + ray)
    extent, widening = tl.load(table + 2 * rays + ray), tl.load(table + 3 * rays + ray)
    length = tl.load(table + 4 * rays + ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, offset, width = _lines_of(length, rows, columns)
    most = tl.maximum(
        extent + widening * (begin - middle_line), extent + widening * (end - 1 - middle_line)
    )
    pixels = tl.floor(tl.max(tl.where(end > begin, most, 0.0))).to(tl.int32) + 2
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), table.dtype.element_ty)
    for i in range(tl.min(begin), tl.max(end)):
        line = (i - middle_line).to(slope.dtype)
        covered = tl.fma(widening, line, extent)
        at = tl.fma(slope, line, low) + 0.5  # pixels from k to k + 1
        whole = tl.floor(at)
        k = whole.to(tl.int32) + middle_pixel
        met = real & (i >= begin) & (i < end)
        scale = 1.0 / tl.where(met, covered, 1.0)
        for n in range(pixels):
            share = tl.minimum(at - whole + covered, n + 1.0) - tl.maximum(at - whole, n)
            mask = met & (share > 0) & (k + n >= 1) & (k + n <= width)
            where = images + (offset + i * (width + 2) + k + n)[None, :]
            value = tl.load(lines + where, mask=exist & mask[None, :], other=0.0)
            total += tl.where(mask, share * scale, 0.0)[None, :] * value.to(slope.dtype)
    total *= tl.abs(length)[None, :]
    sinograms, _ = batch_tile(batch, rays, BLOCK_B)
    tl.store(
        out + sinograms + ray[None, :],
        total.to(out.dtype.element_ty),
        mask=exist & real[None, :],
    )


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
    ray, rays = v * bins + d, views * bins
    images, exist = batch_tile(batch, rows * (columns + 2) + columns * (rows + 2), BLOCK_B)
    view = view_values(view_table, views, v)
    low, slope = tl.load(table + ray), tl.load(table + rays + ray)
    extent, widening = tl.load(table + 2 * rays + ray), tl.load(table + 3 * rays + ray)
    signed_length = tl.load(table + 4 * rays + ray)
    begin, end = tl.load(spans + ray), tl.load(spans + rays + ray)
    middle_line, middle_pixel, offset, width = _lines_of(signed_length, rows, columns)
    most = tl.maximum(
        extent + widening * (begin - middle_line), extent + widening * (end - 1 - middle_line)
    )
    most = tl.max(tl.where(end > begin, most, 0.0)) + 2 * _MARGIN
    pixels = tl.floor(most).to(tl.int32) + 1
    bin_from_middle = d - bins // 2
    total = tl.zeros((BLOCK_B, BLOCK_V * BLOCK_D), table.dtype.element_ty)
    for i in range(tl.min(begin), tl.max(end)):
        at = tl.fma(slope, (i - middle_line).to(slope.dtype), low)
        k = tl.ceil(at - _MARGIN).to(tl.int32) + middle_pixel
        met = real & (i >= begin) & (i < end)
        for n in range(pixels):
            column = tl.where(signed_length > 0, k + n - 1, i)
            row = tl.where(signed_length > 0, i, k + n - 1)
            x = column.to(slope.dtype) - (columns - 1) * 0.5
            y = (rows - 1) * 0.5 - row.to(slope.dtype)
            at_bin, weight = bin_of_pixel(view, x, y, KIND, ATAN, ASIN)
            share = weight * (1.0 - tl.abs(at_bin - bin_from_middle))
            mask = met & (share > 0) & (k + n >= 1) & (k + n <= width)
            where = images + (offset + i * (width + 2) + k + n)[None, :]
            value = tl.load(lines + where, mask=exist & mask[None, :], other=0.0)
            total += tl.where(mask, share, 0.0)[None, :] * value.to(slope.dtype)
    sinograms, _ = batch_tile(batch, rays, BLOCK_B)
    tl.store(
        out + sinograms + ray[None, :],
        total.to(out.dtype.element_ty),
        mask=exist & real[None, :],
    )
