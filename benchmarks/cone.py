"""Times of the cone beam's operators beside RTK's, in benchmarks/results/cone.json.

    python benchmarks/cone.py [--repeats 5] [--threads 1]

Ours and RTK's take turns on the same numbers, so that a busy machine disturbs both alike; compare
the ratios, not the seconds. ASTRA is not in it: it projects cones on a GPU only. Without RTK
(``pip install itk-rtk``) only our times are taken.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedm2ct.files import write_atomically
from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.physics.cone_operators import ConeProjector
from fedm2ct.physics.ellipsoids import Ellipsoid, ball, ellipsoid_projections, ellipsoid_volume
from fedm2ct.physics.fdk import fdk
from fedm2ct.physics.geometry import equispaced_angles
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.units import MU_WATER_PER_MM

RESULT = Path(__file__).parent / "results" / "cone.json"
GEOMETRY = ConeGeometry(equispaced_angles(180), 64, 184, 3.0, 2.4, 500.0, 1000.0)
GRID = VolumeGrid(128, 128, 128, 1.4, 0.6)
PHANTOM = [Ellipsoid(0.0, 0.0, 0.0, 70.0, 55.0, 32.0, 0.3, 1.0), ball(12.0, 20.0, 15.0, 5.0, 0.1)]

Run = Callable[[], Tensor]


def ours(geometry: ConeGeometry, grid: VolumeGrid, volume: Tensor, rays: Tensor) -> dict[str, Run]:
    """Return what is timed of ours."""
    projector = ConeProjector(geometry, grid)
    return {
        "project": lambda: projector(volume),
        "adjoint": lambda: projector.adjoint(rays),
        "fdk": lambda: fdk(rays, geometry, grid),
    }


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    geometry: ConeGeometry, grid: VolumeGrid, repeats: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Time each operator; errors are against the phantom's exact integrals and its inside."""
    torch.set_num_threads(threads)
    volume = ellipsoid_volume(PHANTOM, grid).float()
    exact = ellipsoid_projections(PHANTOM, geometry).float()
    rtk = _rtk(geometry, grid, threads)
    result = {}
    for name, run in ours(geometry, grid, volume, exact).items():
        first = seconds(run)
        times: dict[str, list[float]] = {"ours": [], "rtk": []}
        output: dict[str, Tensor] = {}
        for _ in range(repeats):
            times["ours"].append(seconds(run))
            if rtk:
                update = getattr(rtk, name)(volume if name == "project" else exact)
                times["rtk"].append(seconds(update.Update))
                output["rtk"] = rtk.output(name, update)
        output["ours"] = run()
        result[name] = {"first_call_s": round(first, 2), **_compared(times)}
        result[name]["error"] = {
            key: _error(name, value, volume, exact) for key, value in sorted(output.items())
        }
    return result


def _rtk(geometry: ConeGeometry, grid: VolumeGrid, threads: int) -> Any:
    try:
        import cone_rtk
    except ImportError:
        return None
    cone_rtk.set_threads(threads)
    return cone_rtk.Rtk(geometry, grid)


def _compared(times: dict[str, list[float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        f"{key}_s": {"min": round(min(t), 4), "median": round(float(np.median(t)), 4)}
        for key, t in times.items()
        if t
    }
    if times["rtk"]:
        pairs = np.divide(times["rtk"], times["ours"])
        summary["rtk_over_ours"] = {
            "of_min": round(min(times["rtk"]) / min(times["ours"]), 2),
            "median_of_pairs": round(float(np.median(pairs)), 2),
        }
    return summary


def _error(name: str, value: Tensor, volume: Tensor, exact: Tensor) -> float | None:
    """Return the relative error (projections), or the RMSE in HU well inside (reconstruction)."""
    if name == "project":
        truth = exact / MU_WATER_PER_MM
        return round(float((value - truth).norm() / truth.norm()), 5)
    if name == "fdk":
        outside = (volume != 1).float()[None]
        inside = torch.nn.functional.max_pool3d(outside, 9, 1, 4)[0] == 0
        return round(1000 * float((value[inside] - 1).square().mean().sqrt()), 2)
    return None


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    measured = measure(GEOMETRY, GRID, arguments.repeats, arguments.threads)
    made = provenance()
    if "rtk_s" in measured["project"]:
        made["versions"]["itk-rtk"] = version("itk-rtk")
    result = {
        **made,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "volume": GRID.shape,
        "projections": GEOMETRY.shape,
        "errors": "project: relative to exact integrals; fdk: RMSE in HU inside the phantom",
        "operators": measured,
    }
    write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
