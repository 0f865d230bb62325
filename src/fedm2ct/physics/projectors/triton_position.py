"""Parts of the Triton kernels: a program's pixels, rays and images, and where a pixel falls.

These are device functions; the kernels are in `triton_rays` and `triton_pixels`.
"""

import triton
import triton.language as tl

from fedm2ct.physics.projectors.pixels import CURVED, CURVED_SHIFTED, PARALLEL

_PARALLEL = tl.constexpr(PARALLEL)
_CURVED = tl.constexpr(CURVED)
_CURVED_SHIFTED = tl.constexpr(CURVED_SHIFTED)
_NEAREST = tl.constexpr(1e-3)


@triton.jit
def ray_tile(views, bins, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return view and bin of this program's rays, and which of them exist.

    A few views beside each other read nearly the same pixels at the same time.
    """
    across = tl.cdiv(bins, BLOCK_D)
    pid = tl.program_id(0)
    n = tl.arange(0, BLOCK_V * BLOCK_D)
    v = (pid // across) * BLOCK_V + n // BLOCK_D
    d = (pid % across) * BLOCK_D + n % BLOCK_D
    real = (v < views) & (d < bins)
    return tl.minimum(v, views - 1), tl.minimum(d, bins - 1), real


@triton.jit
def pixel_tile(rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return row and column of this program's pixels, and which of them exist."""
    across = tl.cdiv(columns, BLOCK_C)
    pid = tl.program_id(0)
    n = tl.arange(0, BLOCK_R * BLOCK_C)
    i = (pid // across) * BLOCK_R + n // BLOCK_C
    j = (pid % across) * BLOCK_C + n % BLOCK_C
    real = (i < rows) & (j < columns)
    return tl.minimum(i, rows - 1), tl.minimum(j, columns - 1), real


@triton.jit
def batch_tile(batch, size, BLOCK_B: tl.constexpr):
    """Return where this program's images begin, as a column, and which of them exist."""
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    return (b.to(tl.int64) * size)[:, None], (b < batch)[:, None]


@triton.jit
def gather(tensor, images, exist, where, mask, work):
    """Load one element of each image, zero where masked, in the dtype to compute in."""
    at = tensor + images + where[None, :]
    return tl.load(at, mask=exist & mask[None, :], other=0.0).to(work)


@triton.jit
def gather_pair(tensor, images, exist, where, mask, mask_next, work):
    """Load one element of each image and the one after it."""
    at = tensor + images + where[None, :]
    this = tl.load(at, mask=exist & mask[None, :], other=0.0)
    following = tl.load(at + 1, mask=exist & mask_next[None, :], other=0.0)
    return this.to(work), following.to(work)


@triton.jit
def within(k, count):
    """Say whether ``0 <= k < count``, in one comparison."""
    return k.to(tl.uint32) < count


@triton.jit
def store(out, total, batch, size, where, real, BLOCK_B: tl.constexpr):
    """Write one element of each image."""
    images, exist = batch_tile(batch, size, BLOCK_B)
    value = total.to(out.dtype.element_ty)
    tl.store(out + images + where[None, :], value, mask=exist & real[None, :])


@triton.jit
def view_values(table, views, v):
    """Load the ten numbers of one view, or of one view for each lane."""
    cos, sin = tl.load(table + v), tl.load(table + views + v)
    cos_rest, sin_rest = tl.load(table + 2 * views + v), tl.load(table + 3 * views + v)
    source, aside = tl.load(table + 4 * views + v), tl.load(table + 5 * views + v)
    gain, shift = tl.load(table + 6 * views + v), tl.load(table + 7 * views + v)
    ahead, across = tl.load(table + 8 * views + v), tl.load(table + 9 * views + v)
    return cos, sin, cos_rest, sin_rest, source, aside, gain, shift, ahead, across


@triton.jit
def _odd_series(r, C: tl.constexpr):
    """Return ``r + r^3 * sum_k C[k] r^(2k)``."""
    s = r * r
    total = tl.zeros_like(s) + C[len(C) - 1]
    for n in tl.static_range(len(C) - 1):
        total = total * s + C[len(C) - 2 - n]
    return r + r * s * total


@triton.jit
def bin_of_pixel(view, x, y, KIND: tl.constexpr, ATAN: tl.constexpr, ASIN: tl.constexpr):
    """Return where a pixel falls, in bins from the middle one, and its distance weight."""
    cos, sin, cos_rest, sin_rest, source, aside, gain, shift, ahead, across = view
    # aside from the rests, products and sums of half numbers up to 512 are exact in float32
    at = (y * cos - x * sin - aside) + (y * cos_rest - x * sin_rest)
    weight = tl.zeros_like(at) + 1.0
    if KIND != _PARALLEL:
        depth = (source - (x * cos + y * sin)) - (x * cos_rest + y * sin_rest)
        side = at
        inverse = 1.0 / depth
        at = side * inverse
        at = tl.fma(tl.fma(-at, depth, side), inverse, at)  # the device's division is not exact
        weight = source * inverse
        weight = weight * weight
        if KIND >= _CURVED:
            squared = depth * depth + side * side
            weight = (source * source + aside * aside) / squared
            at = _odd_series(at, ATAN)
            if KIND == _CURVED_SHIFTED:
                # from the shifted source's angle to the nominal one's
                at = at - _odd_series((ahead * side - across * depth) / tl.sqrt(squared), ASIN)
    return tl.fma(at, gain, shift), weight


@triton.jit
def tile_circle(x, y):
    """Return centre and radius of a circle that holds a tile of pixels and their neighbours."""
    left, right, bottom, top = tl.min(x), tl.max(x), tl.min(y), tl.max(y)
    width, height = right - left, top - bottom
    radius = 0.5 * tl.sqrt(width * width + height * height) + 1.0
    return 0.5 * (left + right), 0.5 * (bottom + top), radius


@triton.jit
def bins_per_pixel(view, circle, stretch, KIND: tl.constexpr):
    """Bound how many bins apart the rays through two neighbours in a row or a column are.

    On a flat detector ``r = side / depth`` moves by ``(a - r b) / depth'`` where ``side`` moves by
    ``a`` and ``depth`` by ``b``, with the depth ``depth'`` of the end; angles move by less than
    their tangents.
    """
    cos, sin, _, _, source, aside, gain, _, _, _ = view
    x, y, radius = circle
    most = tl.maximum(tl.abs(cos), tl.abs(sin))
    if KIND != _PARALLEL:
        depth = source - x * cos - y * sin
        near = tl.maximum(depth - radius, _NEAREST)
        r = (y * cos - x * sin - aside) / tl.maximum(depth, _NEAREST)
        most = tl.maximum(tl.abs(sin - r * cos), tl.abs(cos + r * sin))
        most = (most + radius * (1.0 + tl.abs(r)) / near) / near
    return most * gain * stretch
