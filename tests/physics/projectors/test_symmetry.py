"""Which views share their rays: found where they do, and only there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fedm2ct.physics.geometry import (
    FanGeometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.projectors.symmetry import matrix, view_groups
from tests.properties.cases import EVERY_LAYOUT

SQUARE, OBLONG = ImageGrid(32, 32, 1.0), ImageGrid(24, 32, 1.0)
FAN = FanGeometry(equispaced_angles(1000), 736, 0.1, 60.0, 110.0)
PARALLEL = ParallelGeometry(equispaced_angles(1000, math.pi), 513, 0.1)


@pytest.mark.parametrize(
    ("geometry", "grid", "lanes", "most_base_views"),
    [
        (FAN, SQUARE, 8, 126),  # two of the axes' views have fewer partners
        (FAN, OBLONG, 4, 251),
        (replace(FAN, detector_offset_mm=0.025), SQUARE, 4, 250),
        (replace(FAN, angles_rad=equispaced_angles(1000, start_rad=0.05)), SQUARE, 4, 250),
        (replace(FAN, source_angle_shift_rad=(1e-3, -1e-3) * 500), SQUARE, 4, 250),
        (replace(FAN, angles_rad=equispaced_angles(1001)), SQUARE, 2, 501),
        (replace(FAN, angles_rad=tuple(np.linspace(0.1, 0.2, 1000))), SQUARE, 1, 1000),
        (PARALLEL, SQUARE, 4, 251),
    ],
)
def test_shares_as_much_as_the_angles_allow(geometry, grid, lanes, most_base_views):
    groups = view_groups(geometry, grid, batch=1)
    assert len(groups.base) <= most_base_views
    assert np.mean(groups.views >= 0) > 0.98
    assert groups.views.shape[1] == len(groups.elements) <= max(lanes, 1)


def test_a_parallel_view_and_its_reverse_are_two_lanes():
    groups = view_groups(PARALLEL, SQUARE, 1, may_halve=True)
    assert groups.halved
    assert len(groups.elements) == 8 and len(groups.base) == 251
    pairs = {(v, f) for v, f in zip(groups.views.flat, groups.flips.flat, strict=True) if v >= 0}
    assert pairs == {(v, f) for v in range(1000) for f in (0, 1)}
    assert not view_groups(replace(PARALLEL, detector_offset_mm=0.02), SQUARE, 1, True).halved


@EVERY_LAYOUT
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_view_is_given_once(geometry, grid, batch):
    groups = view_groups(geometry, grid, batch)
    given = np.sort(groups.views[groups.views >= 0])
    assert np.array_equal(given, np.arange(geometry.n_views))
    assert np.array_equal(groups.views[:, 0], groups.base)
    assert not groups.flips[:, 0].any()


@EVERY_LAYOUT
def test_a_lane_maps_the_base_views_source_to_its_views(geometry, grid):
    groups = view_groups(geometry, grid, 1)
    along, across = np.ones(geometry.n_views), np.zeros(geometry.n_views)
    if isinstance(geometry, FanGeometry):
        along, across = geometry.sources_mm
    n = np.stack([np.cos(geometry.angles), np.sin(geometry.angles)], axis=1)
    e = np.stack([-n[:, 1], n[:, 0]], axis=1)
    source = along[:, None] * n + across[:, None] * e
    for base, views, flips in zip(groups.base, groups.views, groups.flips, strict=True):
        for element, view, flip in zip(groups.elements, views, flips, strict=True):
            if view < 0:
                continue
            image = matrix(element) @ source[base]
            if isinstance(geometry, ParallelGeometry):  # a view and its reverse are one
                mirror = np.linalg.det(matrix(element)) < 0
                image = image if bool(flip) == bool(mirror) else -image
            assert np.allclose(image, source[view], atol=1e-9)
