"""How the CPU kernels sweep over a geometry: which rays or pixels, on which lanes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import Footprint
from fedm2ct.physics.projectors.lanes import Array, Views, make_views
from fedm2ct.physics.projectors.pixel_kernels import Pixels
from fedm2ct.physics.projectors.pixels import pixel_table
from fedm2ct.physics.projectors.ray_kernels import Rays
from fedm2ct.physics.projectors.rays import RayTable, ray_table
from fedm2ct.physics.projectors.symmetry import Element, ViewGroups, view_groups

BOTH = 2
"""`Views.wanted` for rays of either axis."""


@dataclass(frozen=True)
class RayPass:
    """One sweep over the base views' rays.

    Attributes
    ----------
    elements
        The lanes of one image.
    slots
        For each lane, the one that holds its value where a ray is sampled by column.
    shape
        Rows and columns of a lane.
    views, rays
        For the kernels.
    """

    elements: tuple[Element, ...]
    slots: tuple[int, ...]
    shape: tuple[int, int]
    views: Views
    rays: Rays


@dataclass(frozen=True)
class PixelPass:
    """The sweep over the base views' pixels; attributes as those of `RayPass` and `PixelTable`."""

    elements: tuple[Element, ...]
    slots: tuple[int, ...]
    kind: int
    views: Views
    pixels: Pixels


def pixel_pass(geometry: Geometry, grid: ImageGrid, batch: int) -> PixelPass:
    """Lay out the base views of the pixel-driven back-projector."""
    groups = view_groups(geometry, grid, batch)
    p, base = pixel_table(geometry, grid), groups.base
    pixels = Pixels(
        p.cos[base], p.sin[base], p.x, p.y, p.along[base], p.across[base],
        p.behind_mm, p.detector_mm, p.scale, p.first, p.bins, p.atan,
    )  # fmt: skip
    views = make_views(groups, geometry.n_bins, np.empty((0, 0), np.uint8), BOTH)
    return PixelPass(groups.elements, tuple(range(len(groups.elements))), p.kind, views, pixels)


def ray_passes(
    geometry: Geometry, grid: ImageGrid, batch: int, footprint: Footprint
) -> tuple[RayPass, ...]:
    """Lay out the base views' rays so that all are sampled by row of their lanes.

    A ray that is sampled by column is sampled by row of the transposed lane. Where that, or the
    transposed lane upside down, is a lane too, one pass does all; otherwise each axis has its own.
    """
    groups = view_groups(geometry, grid, batch, may_halve=True)
    table = ray_table(geometry, grid)
    elements = groups.elements
    for back in (False, True):
        swapped = [_swap(element, back) for element in elements]
        if set(swapped) == set(elements):
            slots = tuple(map(elements.index, swapped))
            rays, views = _rays(table, groups, grid.shape, footprint, back, BOTH)
            return (RayPass(elements, slots, grid.shape, views, rays),)
    own = tuple(range(len(elements)))
    turned = tuple(_swap(element, False) for element in elements)
    passes = []
    for axis, (lanes, shape) in enumerate(((elements, grid.shape), (turned, grid.shape[::-1]))):
        rays, views = _rays(table, groups, shape, footprint, False, axis)
        passes.append(RayPass(lanes, own, shape, views, rays))
    return tuple(passes)


def _swap(element: Element, back: bool) -> Element:
    """Return the element of a lane's transpose, its rows reversed if ``back``."""
    t, r, c = element
    return 1 - t, c ^ int(back), r


def _rays(
    table: RayTable,
    groups: ViewGroups,
    shape: tuple[int, int],
    footprint: Footprint,
    back: bool,
    wanted: int,
) -> tuple[Rays, Views]:
    """Return the base views' rays; those by column upside down if ``back``."""
    bins = table.by_row.shape[1]
    size = (bins + 1) // 2 if groups.halved else bins

    def base(name: str) -> Array:
        column: NDArray[np.generic] = getattr(table, name)
        return np.ascontiguousarray(column[groups.base, :size])

    axis = (~base("by_row")).astype(np.uint8)
    if footprint == "joseph":
        at = np.stack([base("first"), base("slope")])
        start, stop, taps = base("start"), base("stop"), 2
    else:
        names = ("low_first", "low_slope", "high_first", "high_slope")
        at = np.stack([base(name) for name in names])
        start, stop = base("edge_start"), base("edge_stop")
        width = max(float((at[2] - at[0] + (at[3] - at[1]) * i).max()) for i in (0, shape[0] - 1))
        taps = min(shape[1], math.ceil(width - 1e-9) + 1)
    if back:
        turned, last = axis == 1, shape[0] - 1
        at[::2] = np.where(turned, at[::2] + at[1::2] * last, at[::2])
        at[1::2] = np.where(turned, -at[1::2], at[1::2])
        start, stop = (
            np.where(turned, shape[0] - stop, start),
            np.where(turned, shape[0] - start, stop),
        )
    if wanted != BOTH:
        stop = np.where(axis == wanted, stop, start)
    rays = Rays(
        at, np.ascontiguousarray(start), np.ascontiguousarray(stop), base("length_mm"), taps
    )
    return rays, make_views(groups, bins, axis, wanted)
