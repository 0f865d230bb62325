"""Views that see the same picture: one set of ray positions serves up to eight of them.

Turning a square image by a quarter turn, or mirroring it, turns one view's rays into another's.
So the kernels work on *lanes*: copies of an image under the elements of its symmetry group. One
*base view* is computed with the positions of its own rays, on every lane at once, and each lane
gives another view. Which views belong together is found from their angles, source shifts and the
detector's offset; a lane without a view is idle.

An element ``(t, r, c)`` makes the lane ``L[i, k] = M[i or R-1-i, k or C-1-k]`` where ``M`` is the
image, transposed if ``t``, and ``r`` and ``c`` say whether rows and columns run backwards.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid
from fedm2ct.physics.projectors.rays import ray_lines

Element = tuple[int, int, int]
IDENTITY: Element = (0, 0, 0)
_TURNS: tuple[Element, ...] = (IDENTITY, (0, 1, 1), (1, 0, 1), (1, 1, 0))
_MIRRORS: tuple[Element, ...] = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1))
_CANDIDATES: tuple[tuple[Element, ...], ...] = (
    _TURNS + _MIRRORS,
    _TURNS,
    (IDENTITY, (0, 1, 1), (0, 0, 1), (0, 1, 0)),
    (IDENTITY, (1, 0, 1), (0, 0, 1), (1, 0, 0)),  # one of each half turn: for parallel beams
    (IDENTITY, (1, 0, 1)),
    *((IDENTITY, element) for element in ((0, 1, 1), *_MIRRORS)),
    (IDENTITY,),
)
_SAME = 1e-10
"""Angles (rad) and lengths (mm) closer than this are the same."""
_TIE = 1e-8
"""A ray whose sine and cosine differ by less may be sampled by row or by column. `RayTable` takes
rows, so that ray must not come from a transposed lane, which would take columns."""
MAX_LANES = 16
"""Images x elements that are worked on together; more would not fit the second-level cache."""


@dataclass(frozen=True, eq=False)
class ViewGroups:
    """Base views and the views that their lanes give.

    Attributes
    ----------
    elements
        The lanes of one image; the first is the identity.
    base
        The base views, shape ``(groups,)``.
    views
        For each base view and lane the view it gives, -1 where idle; shape ``(groups, lanes)``.
    flips
        1 where that view's bins run backwards; shape ``(groups, lanes)``.
    halved
        Whether only the lower half of the bins is computed, because the lanes give both a view
        and its reverse. The middle one of an odd number of bins is then given twice.
    """

    elements: tuple[Element, ...]
    base: NDArray[np.int32]
    views: NDArray[np.int32]
    flips: NDArray[np.uint8]
    halved: bool

    def work(self, batch: int) -> float:
        """Estimate the time that a batch takes, in units of its own."""
        images = max(1, MAX_LANES // len(self.elements))
        passes = math.ceil(batch / images)
        lanes = len(self.elements) * min(images, batch)
        return len(self.base) * (0.5 if self.halved else 1.0) * passes * (1.0 + 0.04 * lanes)


@lru_cache(maxsize=64)
def view_groups(
    geometry: Geometry, grid: ImageGrid, batch: int, may_halve: bool = False
) -> ViewGroups:
    """Group a geometry's views in the way that suits a batch size best.

    Parameters
    ----------
    geometry, grid
        Geometry and image grid; quarter turns need a square grid.
    batch
        Number of images.
    may_halve
        Whether half of the bins may be left to the lanes (see `ViewGroups`): for parallel beams.
    """
    finder = _Finder(geometry)
    halves = (True, False) if may_halve and finder.reversible else (False,)
    found = []
    for elements, halved in product(_CANDIDATES, halves):
        if grid.rows != grid.columns and any(t for t, _, _ in elements):
            continue
        found.append(finder.groups(elements, halved))
        if len(elements) == len(_CANDIDATES[0]) and np.mean(found[-1].views >= 0) > 0.95:
            break  # nothing can be much better
    return min(found, key=lambda groups: groups.work(batch))


def matrix(element: Element) -> NDArray[np.float64]:
    """Return the map from a lane's coordinates (x right, y up) to the image's, ``(2, 2)``."""
    t, r, c = element
    flip = np.diag([-1.0 if c else 1.0, -1.0 if r else 1.0])
    return np.array([[0.0, -1.0], [-1.0, 0.0]]) @ flip if t else flip


class _Finder:
    """Finds the view that an element makes of another."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.mirrored = abs(geometry.detector_offset_mm) < _SAME
        self.reversible = self.mirrored and not isinstance(geometry, FanGeometry)
        n = geometry.n_views
        self.radial = self.turned = np.zeros(n)
        if isinstance(geometry, FanGeometry):
            self.radial = np.asarray(geometry.source_radial_shift_mm or self.radial)
            self.turned = np.asarray(geometry.source_angle_shift_rad or self.turned)
        angles, _ = ray_lines(geometry)
        tied = np.abs(np.abs(np.sin(angles)) - np.abs(np.cos(angles))) < _TIE
        self.tied = np.any(tied, axis=1)
        self.by_angle: dict[int, list[int]] = defaultdict(list)
        for view, angle in enumerate(geometry.angles):
            self.by_angle[_key(angle)].append(view)

    def groups(self, elements: Sequence[Element], halved: bool) -> ViewGroups:
        """Cover every view (in both directions where halved) by lanes of base views."""
        left = {(view, flip) for view in range(self.geometry.n_views) for flip in (0, int(halved))}
        base, views, flips = [], [], []
        maps = [matrix(element) for element in elements]
        mirrors = [int(np.linalg.det(m) < 0) for m in maps]
        angles = self.geometry.angles
        ends = np.array(maps) @ np.stack([np.cos(angles), np.sin(angles)])
        targets = np.arctan2(ends[:, 1], ends[:, 0])
        for view in range(self.geometry.n_views):
            if (view, 0) not in left:
                continue
            base.append(view)
            lanes = [
                (-1, 0)
                if element[0] and self.tied[view]
                else self._take(view, target, mirror, left, halved)
                for element, target, mirror in zip(
                    elements, targets[:, view].tolist(), mirrors, strict=True
                )
            ]
            views.append([lane[0] for lane in lanes])
            flips.append([lane[1] for lane in lanes])
        if left:  # a view of which only the reverse is left: no saving, so halving is refused
            return self.groups(elements, halved=False)
        return ViewGroups(
            tuple(elements),
            np.array(base, np.int32),
            np.array(views, np.int32),
            np.array(flips, np.uint8),
            halved,
        )

    def _take(
        self, view: int, angle: float, mirror: int, left: set[tuple[int, int]], halved: bool
    ) -> tuple[int, int]:
        """Return a view at an angle that is left, and its direction; -1 if there is none."""
        if mirror and not self.mirrored:
            return -1, 0
        options = [(angle, mirror)]
        if self.reversible:
            options.append((angle + math.pi, 1 - mirror))
        for target, flip in options:
            for other in self._views_at(target):
                wanted = (other, flip if halved else 0)
                if wanted in left and self._same_source(view, other, mirror):
                    left.remove(wanted)
                    return other, flip
        return -1, 0

    def _views_at(self, angle: float) -> list[int]:
        key, turn = _key(angle), _key(2 * math.pi - 1e-15)
        near = [view for k in (key - 1, key, key + 1) for view in self.by_angle.get(k, ())]
        if key <= 1 or key >= turn - 1:  # either side of a whole turn
            near += [v for k in range(turn - 1, turn + 2) for v in self.by_angle.get(k, ())]
            near += [v for k in (0, 1) for v in self.by_angle.get(k, ())]
        return [
            view
            for view in near
            if abs(math.remainder(self.geometry.angles[view] - angle, 2 * math.pi)) < _SAME
        ]

    def _same_source(self, view: int, other: int, mirror: int) -> bool:
        turned = -self.turned[view] if mirror else self.turned[view]
        return bool(
            abs(self.radial[view] - self.radial[other]) < _SAME
            and abs(turned - self.turned[other]) < _SAME
        )


def _key(angle: float) -> int:
    return int(math.fmod(math.fmod(angle, 2 * math.pi) + 2 * math.pi, 2 * math.pi) / 1e-6)
