"""The least time that a map could take on a machine, from what it must move and compute.

Three floors, each of them unreachable: *memory*, input, output and tables moved once at the speed
of a copy measured in the same run; *arithmetic*, the multiply-adds at the stated peak (two
operations each); *loads*, the samples read from cache, where a multiprocessor serves 32 lanes a
clock, a quarter of its multiply-adds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fedm2ct.physics.geometry import FanGeometry, ImageGrid
from fedm2ct.physics.projectors.rays import ray_table

PEAK_TFLOPS = {  # float32 without tensor cores, from NVIDIA's data sheets
    "NVIDIA H100 80GB HBM3": 66.9,
    "NVIDIA H100 PCIe": 51.2,
    "NVIDIA H200": 66.9,
    "NVIDIA A100-SXM4-80GB": 19.5,
    "NVIDIA A100-SXM4-40GB": 19.5,
    "NVIDIA A100-PCIE-40GB": 19.5,
    "NVIDIA L40S": 91.6,
    "NVIDIA GeForce RTX 4090": 82.6,
    "NVIDIA GeForce RTX 3090": 35.6,
    "Tesla T4": 8.1,
    "Tesla V100-SXM2-16GB": 15.7,
}
_RAY_BYTES, _STRIP_BYTES = 20, 28
_OF_A_SAMPLE = {"joseph": 1, "distance-driven": 4, "backproject": 8}
"""Multiply-adds that place one sample, whatever the batch."""


@dataclass(frozen=True)
class Work:
    """Bytes, multiply-adds and loads of one call."""

    moved: float
    multiply_adds: float
    loads: float


def work(name: str, geometry: FanGeometry, grid: ImageGrid, batch: int, dtype: torch.dtype) -> Work:
    """Count what a map must do."""
    family = name.split()[0]
    pixels, rays = grid.rows * grid.columns, geometry.n_views * geometry.n_bins
    table = ray_table(geometry, grid)
    tables = 0.0
    if family == "backproject":
        samples, reads = float(geometry.n_views * pixels), 2.0
        tables = rays * _STRIP_BYTES if "adjoint" in name else 0.0
        tables += rays * 4.0 if "weighted" in name else 0.0
    elif family == "joseph":
        samples, reads = float((table.stop - table.start).sum()), 2.0
        tables = rays * _RAY_BYTES
    else:
        lines = table.edge_stop - table.edge_start
        width = table.high_first - table.low_first
        width += (table.high_slope - table.low_slope) * (table.edge_start + table.edge_stop) / 2
        samples, reads = float(np.sum(lines * (1.0 + width))), 1.0
        tables = rays * _STRIP_BYTES
    each = reads * batch
    moved = (pixels + rays) * batch * dtype.itemsize + tables
    return Work(moved, samples * (_OF_A_SAMPLE[family] + each), samples * each)


def copy_bandwidth(milliseconds: Callable[[Callable[[], object]], dict[str, float]]) -> float:
    """Measure a copy of 1 GB, read and written, in bytes a second."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    time = milliseconds(lambda: target.copy_(source))["median"]
    return 2.0 * source.numel() * source.element_size() / (time * 1e-3)


def floors(done: Work, bandwidth: float, peak_tflops: float | None) -> dict[str, float]:
    """Return the floors in milliseconds; without a stated peak, memory's alone."""
    found = {"memory": done.moved / bandwidth * 1e3}
    if peak_tflops:
        rate = peak_tflops * 1e12 / 2
        found["arithmetic"] = done.multiply_adds / rate * 1e3
        found["loads"] = done.loads / (rate / 4) * 1e3
    return found
