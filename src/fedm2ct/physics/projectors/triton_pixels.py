"""Triton kernels with one lane for each pixel: they gather from every view's bins.

Joseph's and the distance-driven adjoint are gathers too. In each view a pixel is met by the rays
of a few bins about the one that it falls on: as many as lie within one pixel of it along a row or
column (`bins_per_pixel` bounds that from the geometry, once for a tile of pixels). Every such bin
is tried with the forward kernel's own numbers and expression for the place of its ray, and weighs
what the forward kernel gives this pixel, zero if the ray passes it by. So the adjoint is the exact
transpose, needs no atomics and is the same to the last bit in every run.
"""

import triton
import triton.language as tl

from fedm2ct.physics.projectors.triton_position import (
    batch_tile,
    bin_of_pixel,
    bins_per_pixel,
    gather,
    gather_pair,
    pixel_tile,
    store,
    tile_circle,
    view_values,
    within,
)

_MARGIN = tl.constexpr(0.01)


@triton.jit
def backproject(
    sinogram, weights, view_table, out,
    batch, views, bins, rows, columns,
    WEIGHTED: tl.constexpr, KIND: tl.constexpr, ATAN: tl.constexpr, ASIN: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum the sinogram interpolated where each pixel falls, with its distance weight."""
    work = view_table.dtype.element_ty
    i, j, real = pixel_tile(rows, columns, BLOCK_R, BLOCK_C)
    sinograms, exist = batch_tile(batch, views * bins, BLOCK_B)
    x = j.to(work) - (columns - 1) * 0.5
    y = (rows - 1) * 0.5 - i.to(work)
    total = tl.zeros((BLOCK_B, BLOCK_R * BLOCK_C), work)
    for v in range(views):
        view = view_values(view_table, views, v)
        at, weight = bin_of_pixel(view, x, y, KIND, ATAN, ASIN)
        whole = tl.floor(at)
        right = weight * (at - whole)
        left = weight - right
        d = whole.to(tl.int32) + bins // 2
        mask, mask_next = real & within(d, bins), real & within(d + 1, bins)
        where = v * bins + d
        if WEIGHTED:
            left *= tl.load(weights + where, mask=mask, other=0.0).to(work)
            right *= tl.load(weights + where + 1, mask=mask_next, other=0.0).to(work)
        a, b = gather_pair(sinogram, sinograms, exist, where, mask, mask_next, work)
        total += left[None, :] * a + right[None, :] * b
    store(out, total, batch, rows * columns, i * columns + j, real, BLOCK_B)


@triton.jit
def _joseph_share(table, rays, ray, mask, i, j, rows, columns):
    """Return what a ray gives of its length to pixel ``(i, j)``, as `triton_rays.joseph`."""
    middle = tl.load(table + ray, mask=mask, other=0.0)
    slope = tl.load(table + rays + ray, mask=mask, other=0.0)
    length = tl.load(table + 2 * rays + ray, mask=mask, other=0.0)
    line = tl.where(length > 0, i - rows // 2, j - columns // 2)
    pixel = tl.where(length > 0, j - columns // 2, i - rows // 2)
    at = tl.fma(slope, line.to(slope.dtype), middle)
    return (1.0 - tl.abs(at - pixel)) * tl.abs(length)


@triton.jit
def _footprint_share(table, rays, ray, mask, i, j, rows, columns):
    """Return what a bin gives of its length to pixel ``(i, j)``, as `triton_rays.footprint`."""
    low = tl.load(table + ray, mask=mask, other=0.0)
    slope = tl.load(table + rays + ray, mask=mask, other=0.0)
    extent = tl.load(table + 2 * rays + ray, mask=mask, other=1.0)
    widening = tl.load(table + 3 * rays + ray, mask=mask, other=0.0)
    length = tl.load(table + 4 * rays + ray, mask=mask, other=0.0)
    line = tl.where(length > 0, i - rows // 2, j - columns // 2).to(slope.dtype)
    pixel = tl.where(length > 0, j - columns // 2, i - rows // 2)
    covered = tl.fma(widening, line, extent)
    at = tl.fma(slope, line, low) + 0.5 - pixel
    return (tl.minimum(at + covered, 1.0) - tl.maximum(at, 0.0)) * (tl.abs(length) / covered)


@triton.jit
def project_adjoint(
    sinogram, view_table, table, out,
    batch, views, bins, rows, columns, stretch,
    DISTANCE_DRIVEN: tl.constexpr, KIND: tl.constexpr, ATAN: tl.constexpr, ASIN: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum, for each pixel, the bins whose rays meet it: the transpose of both footprints."""
    work = view_table.dtype.element_ty
    i, j, real = pixel_tile(rows, columns, BLOCK_R, BLOCK_C)
    sinograms, exist = batch_tile(batch, views * bins, BLOCK_B)
    x = j.to(work) - (columns - 1) * 0.5
    y = (rows - 1) * 0.5 - i.to(work)
    circle = tile_circle(x, y)
    total = tl.zeros((BLOCK_B, BLOCK_R * BLOCK_C), work)
    for v in range(views):
        view = view_values(view_table, views, v)
        reach = bins_per_pixel(view, circle, stretch, KIND)
        if DISTANCE_DRIVEN:
            reach = 0.5 * reach + 0.5
        reach = tl.minimum(reach + _MARGIN, bins)
        tries = tl.minimum(tl.floor(2.0 * reach).to(tl.int32) + 1, bins)
        at, _ = bin_of_pixel(view, x, y, KIND, ATAN, ASIN)
        first = tl.maximum(tl.ceil(at - reach).to(tl.int32) + bins // 2, 0)
        for n in range(tries):
            ray = v * bins + first + n
            mask = real & (first + n < bins)
            if DISTANCE_DRIVEN:
                share = _footprint_share(table, views * bins, ray, mask, i, j, rows, columns)
            else:
                share = _joseph_share(table, views * bins, ray, mask, i, j, rows, columns)
            mask = mask & (share > 0)
            value = gather(sinogram, sinograms, exist, ray, mask, work)
            total += tl.where(mask, share, 0.0)[None, :] * value
    store(out, total, batch, rows * columns, i * columns + j, real, BLOCK_B)
