"""What of the GPU benchmark needs no GPU: its scan, its bounds, its floors."""

import operators_gpu
import operators_gpu_floors
import pytest
import torch
from operators_gpu_floors import Work, floors, work

from fedm2ct.physics.geometry import FanGeometry, ImageGrid
from fedm2ct.physics.projectors.rays import ray_table


def test_the_scan_is_the_stated_one_and_keeps_its_extent_when_shrunk():
    geometry, grid = operators_gpu.scan(1)
    assert geometry.shape == (1000, 736) and grid.shape == (512, 512)
    small, coarse = operators_gpu.scan(16)
    assert small.covered_radius_mm == pytest.approx(geometry.covered_radius_mm)
    assert coarse.field_of_view_mm == pytest.approx(grid.field_of_view_mm)


def test_an_error_that_is_out_of_bounds_or_not_a_number_is_named():
    found = {group: {"a": bound / 2} for group, bound in operators_gpu.BOUNDS.items()}
    assert operators_gpu.out_of_bounds(found) == []
    found["adjoint"]["b"], found["float16"]["c"] = 2e-6, float("nan")
    assert [text.split(":")[0] for text in operators_gpu.out_of_bounds(found)] == [
        "adjoint, b",
        "float16, c",
    ]


def test_floors_are_what_they_say():
    found = floors(Work(moved=2e9, multiply_adds=3e9, loads=1e9), 1e12, 10.0)
    assert found == pytest.approx({"memory": 2.0, "arithmetic": 0.6, "loads": 0.8})
    assert set(floors(Work(1.0, 1.0, 1.0), 1e12, None)) == {"memory"}


def test_work_is_counted():
    geometry, grid = FanGeometry((0.3, 1.9), 5, 2.0, 100.0, 200.0), ImageGrid(8, 8, 1.0)
    found = work("backproject", geometry, grid, 3, torch.float16)
    assert found == Work((64 + 10) * 3 * 2, 2 * 64 * (8 + 6), 2 * 64 * 6)
    table = ray_table(geometry, grid)
    samples = float((table.stop - table.start).sum())
    found = work("joseph adjoint", geometry, grid, 1, torch.float32)
    assert found == Work((64 + 10) * 4 + 10 * 20, samples * 3, samples * 2)
    driven = work("distance-driven", geometry, grid, 1, torch.float32)
    # a bin of 2 mm covers about a pixel, so it meets about two of every line
    lines = float((table.edge_stop - table.edge_start).sum())
    assert 1.8 * lines < driven.loads < 2.6 * lines


def test_known_devices_have_plausible_peaks():
    assert all(5 < peak < 100 for peak in operators_gpu_floors.PEAK_TFLOPS.values())
