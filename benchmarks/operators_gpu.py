"""Errors, times and floors of the operators on one GPU, beside ASTRA and torchtomo.

    python benchmarks/operators_gpu.py                  all of it, on a CUDA device
    TRITON_INTERPRET=1 python benchmarks/operators_gpu.py --check-only --shrink 32
                                                        errors only, on any machine

The scan is a full-size fan: 512 x 512 pixels of 0.7 mm, 1000 views, 736 bins of 1.2858 mm on a flat
detector, source at 595 mm, detector at 1085.6 mm. Errors come first, on about 40 of the views (the
PyTorch backend's distance-driven adjoint would need too much memory for all of them); where one is
out of bounds, nothing is timed. Results go to benchmarks/results/operators-gpu.json with the
machine's facts. The floors are what the machine could do at best: see `operators_gpu_floors`.
`--tiles` adds the times of other sizes of a program's tile, to choose better ones from.
"""

import argparse
import importlib.metadata
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from operators_gpu_floors import PEAK_TFLOPS, Work, copy_bandwidth, floors, work
from operators_gpu_rivals import rivals
from torch import Tensor

from fedm2ct.files import write_atomically
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, equispaced_angles
from fedm2ct.physics.phantoms import ellipse_image, ellipse_sinogram, shepp_logan
from fedm2ct.physics.projectors import FOOTPRINTS, Backend, get_backend
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.units import MU_WATER_PER_MM

OUT = Path(__file__).parent / "results" / "operators-gpu.json"
Maps = dict[str, Callable[[Tensor, Tensor], Tensor]]
MAPS: tuple[str, ...] = (
    "joseph",
    "joseph adjoint",
    "distance-driven",
    "distance-driven adjoint",
    "backproject",
    "backproject weighted",
    "backproject adjoint",
)
PAIRS = {
    "joseph": ("joseph", "joseph adjoint"),
    "distance-driven": ("distance-driven", "distance-driven adjoint"),
    "backproject": ("backproject adjoint", "backproject"),
}
RAY_TILES = ((1, 128), (2, 64), (4, 32), (4, 64), (8, 32))
PIXEL_TILES = ((8, 32), (16, 16), (16, 32), (8, 64), (32, 32))
BOUNDS = {"adjoint": 1e-6, "float64": 1e-12, "float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}


def scan(shrink: int) -> tuple[FanGeometry, ImageGrid]:
    """Return the full-size scan, or one of the same extent with everything coarser."""
    geometry = FanGeometry(
        equispaced_angles(1000 // shrink), 736 // shrink, 1.2858 * shrink, 595.0, 1085.6
    )
    return geometry, ImageGrid(512 // shrink, 512 // shrink, 0.7 * shrink)


def maps(backend: Backend, weights: Tensor) -> Maps:
    """Return every map as a function of an image and a sinogram, of which it uses one."""
    found: Maps = {}
    for footprint in FOOTPRINTS:
        found[footprint] = lambda x, y, f=footprint: backend.project(x, f)
        found[f"{footprint} adjoint"] = lambda x, y, f=footprint: backend.project_adjoint(y, f)
    found["backproject"] = lambda x, y: backend.backproject(y)
    found["backproject weighted"] = lambda x, y: backend.backproject(y, weights)
    found["backproject adjoint"] = lambda x, y: backend.backproject_adjoint(x)
    return found


def relative(a: Tensor, b: Tensor) -> float:
    """Return the relative root mean square difference."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def checks(geometry: FanGeometry, grid: ImageGrid, device: torch.device) -> dict[str, Any]:
    """Return errors: against exact integrals, of adjoints, against PyTorch, in half precision."""
    step = max(1, geometry.n_views // 40)
    geometry = replace(geometry, angles_rad=geometry.angles_rad[::step])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((1, *grid.shape), generator=generator, dtype=torch.float64).to(device)
    y = torch.rand((1, *geometry.shape), generator=generator, dtype=torch.float64).to(device)
    ours = maps(get_backend("triton", geometry, grid), y[0])
    reference = maps(get_backend("torch", geometry, grid), y[0])
    found: dict[str, Any] = {"exact integrals": exact_errors(ours, geometry, grid, device)}
    found["adjoint"] = {
        f"{name} {dtype}": adjoint_mismatch(ours, pair, x.to(dtype), y.to(dtype))
        for name, pair in PAIRS.items()
        for dtype in (torch.float32, torch.float64)
    }
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        rounded = x.to(dtype), y.to(dtype)
        again = tuple(t.double() for t in rounded)
        found[str(dtype).removeprefix("torch.")] = {
            name: relative(ours[name](*rounded), reference[name](*again)) for name in MAPS
        }
    return found


def exact_errors(
    ours: Maps, geometry: FanGeometry, grid: ImageGrid, device: torch.device
) -> dict[str, float]:
    """Return how far projections of a rasterised head are from its exact line integrals."""
    phantom = shepp_logan(150.0)
    image = ellipse_image(phantom, grid, 8)[0].to(device, torch.float32)
    exact = ellipse_sinogram(phantom, geometry)[0].to(device) / MU_WATER_PER_MM
    return {f: relative(ours[f](image, exact), exact) for f in FOOTPRINTS}


def adjoint_mismatch(ours: Maps, pair: tuple[str, str], x: Tensor, y: Tensor) -> float:
    """Return ``|<A x, y> - <x, A* y>|`` in units of the norms, summed in double precision."""
    ax, aty = ours[pair[0]](x, y).double(), ours[pair[1]](x, y).double()
    difference = torch.sum(ax * y.double()) - torch.sum(x.double() * aty)
    return float(difference.abs() / (ax.norm() * y.double().norm()))


def out_of_bounds(found: dict[str, Any]) -> list[str]:
    """Return the checks that failed, in words."""
    return [
        f"{group}, {name}: {value:.2g} is not below {bound:g}"
        for group, bound in BOUNDS.items()
        for name, value in found[group].items()
        if not value < bound
    ]


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Time a call by CUDA events, several calls to a repeat, after a warm-up."""

    def once(count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count

    once(3)
    count = max(1, round(20.0 / max(once(3), 1e-3)))
    times = sorted(once(count) for _ in range(repeats))
    return {"median": median(times), "min": times[0], "max": times[-1]}


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call, which must have run before, in a CUDA graph."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def timings(
    geometry: FanGeometry, grid: ImageGrid, repeats: int, bounds: Callable[[Work], dict[str, float]]
) -> Iterator[dict[str, Any]]:
    """Yield the time of every map, with and without a graph, beside its floors."""
    weights = torch.rand(geometry.shape, device="cuda")
    for backend, batch, dtype in (
        ("triton", 1, torch.float32),
        ("triton", 8, torch.float32),
        ("triton", 1, torch.float16),
        ("triton", 8, torch.float16),
        ("torch", 1, torch.float32),
    ):
        every = maps(get_backend(backend, geometry, grid), weights)
        x = torch.rand((batch, *grid.shape), device="cuda").to(dtype)
        y = torch.rand((batch, *geometry.shape), device="cuda").to(dtype)
        for name in MAPS:
            call = partial(every[name], x, y)
            row = {"backend": backend, "map": name, "batch": batch, "dtype": str(dtype)}
            try:
                row["ms"] = milliseconds(call, repeats)
            except torch.OutOfMemoryError:
                row["ms"] = "out of memory"
            if backend == "triton":
                row["ms in a graph"] = milliseconds(graphed(call), repeats)
                row["floor ms"] = bounds(work(name, geometry, grid, batch, dtype))
                best = row["ms in a graph"]["median"]
                row["times the floor"] = best / max(row["floor ms"].values())
            print(json.dumps(row), flush=True)
            yield row


def tiles(geometry: FanGeometry, grid: ImageGrid, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the times of other tile sizes."""
    from fedm2ct.physics.projectors.triton_backend import TritonBackend  # CUDA only

    for batch in (1, 8):
        x = torch.rand((batch, *grid.shape), device="cuda")
        y = torch.rand((batch, *geometry.shape), device="cuda")
        for which, sizes, names in (
            ("ray_tile", RAY_TILES, ("joseph", "distance-driven", "backproject adjoint")),
            ("pixel_tile", PIXEL_TILES, ("joseph adjoint", "backproject")),
        ):
            for size in sizes:
                backend = TritonBackend(geometry, grid)
                setattr(backend, which, size)
                every = maps(backend, y[0])
                for name in names:
                    time = milliseconds(partial(every[name], x, y), repeats)
                    row = {"map": name, "batch": batch, which: size, "ms": time}
                    print(json.dumps(row), flush=True)
                    yield row


def facts() -> dict[str, Any]:
    """Return what the numbers depend on."""
    found = provenance()
    found["versions"]["cuda"] = torch.version.cuda
    for package in ("triton", "astra-toolbox", "torchtomo"):
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found["versions"][package] = None
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        found["device"] = {
            "name": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "bytes": p.total_memory,
            "driver, largest clock": done.stdout.strip(),
        }
    return found


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check-only", action="store_true", help="errors only; needs no GPU")
    parser.add_argument("--shrink", type=int, default=1, help="make everything coarser (default 1)")
    parser.add_argument("--repeats", type=int, default=15, help="of every timing (default 15)")
    parser.add_argument("--tiles", action="store_true", help="time other tile sizes too")
    parser.add_argument("--peak-tflops", type=float, help="float32, where the device is not known")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    geometry, grid = scan(options.shrink)
    record = {**facts(), "sinogram": geometry.shape, "image": grid.shape, "pixel_mm": grid.pixel_mm}
    record["checks"] = checks(geometry, grid, torch.device("cuda" if cuda else "cpu"))
    record["failed"] = out_of_bounds(record["checks"])
    print(json.dumps(record, indent=1), flush=True)
    if record["failed"]:
        raise SystemExit("out of bounds: " + "; ".join(record["failed"]))
    if options.check_only:
        return
    if not cuda:
        raise SystemExit("timings need a CUDA device; --check-only does not")
    peak = options.peak_tflops or PEAK_TFLOPS.get(record["device"]["name"])
    bandwidth = copy_bandwidth(lambda call: milliseconds(call, options.repeats))
    record["limits"] = {"copy bytes/s": bandwidth, "stated float32 TFLOPS": peak}
    record["timings"] = list(
        timings(geometry, grid, options.repeats, lambda w: floors(w, bandwidth, peak))
    )
    if options.tiles:
        record["tiles"] = list(tiles(geometry, grid, options.repeats))
    record["rivals"] = rivals(geometry, grid, lambda call: milliseconds(call, options.repeats))
    write_atomically(options.out, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
