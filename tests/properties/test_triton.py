"""The Triton kernels against the reference: on a GPU where there is one, else interpreted."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry
from fedm2ct.physics.operators import Projector, WeightedBackprojector
from fedm2ct.physics.projectors import get_backend
from fedm2ct.physics.projectors.rays import ray_table
from tests.properties.cases import GEOMETRIES, GRID
from tests.properties.helpers import assert_adjoint, random, relative_error

pytest.importorskip("triton", reason="triton has no wheel for this platform")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHIFTS = {
    "source_angle_shift_rad": (0.01, -0.02, 0.0, 0.03, 0.02, -0.01, 0.015, 0.0),
    "source_radial_shift_mm": (1.0, -2.0, 0.0, 3.0, 2.0, 0.5, -1.0, 2.0),
}
ALL = GEOMETRIES | {
    "fan-flat-flying": replace(GEOMETRIES["fan-flat-shifted"], **SHIFTS),
    "fan-curved-flying": replace(GEOMETRIES["fan-curved-shifted"], **SHIFTS),
}
FOOTPRINTS = ("joseph", "distance-driven")
EVERY = pytest.mark.parametrize("geometry", ALL.values(), ids=ALL.keys())


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """The interpreter's time goes by operations, not by elements: let it run few programs."""
    from fedm2ct.physics.projectors.triton_backend import INTERPRETED, TritonBackend

    if INTERPRETED:
        monkeypatch.setattr(TritonBackend, "ray_tile", (8, 128))
        monkeypatch.setattr(TritonBackend, "pixel_tile", (64, 128))


def maps(backend, image, sinogram, weights, footprints=FOOTPRINTS):
    """Every map of a backend, under its name."""
    found = {}
    for footprint in footprints:
        found[f"{footprint} project"] = backend.project(image, footprint)
        found[f"{footprint} adjoint"] = backend.project_adjoint(sinogram, footprint)
    found["backproject"] = backend.backproject(sinogram)
    found["backproject weighted"] = backend.backproject(sinogram, weights)
    found["backproject adjoint"] = backend.backproject_adjoint(image)
    return found


def tensors(geometry, grid, count, dtype):
    return (
        random((count, *grid.shape), 1, dtype, DEVICE),
        random((count, *geometry.shape), 2, dtype, DEVICE),
        random(geometry.shape, 3, dtype, DEVICE),
    )


@EVERY
def test_every_map_is_the_reference_backends(geometry):
    given = tensors(geometry, GRID, 2, torch.float64)
    ours = maps(get_backend("triton", geometry, GRID), *given)
    for name, expected in maps(get_backend("torch", geometry, GRID), *given).items():
        assert ours[name].dtype == torch.float64 and ours[name].device == expected.device
        assert relative_error(ours[name], expected) < 1e-13, name


@pytest.mark.parametrize("name", ["fan-flat", "fan-curved-flying"])
def test_adjoints_are_exact_in_single_precision(name):
    geometry = ALL[name]
    image, sinogram, weights = tensors(geometry, GRID, 1, torch.float32)
    found = maps(get_backend("triton", geometry, GRID), image, sinogram, weights)
    for forward, backward in (
        *((found[f"{f} project"], found[f"{f} adjoint"]) for f in FOOTPRINTS),
        (found["backproject adjoint"], found["backproject"]),
    ):
        left = torch.sum(forward.double() * sinogram.double())
        right = torch.sum(image.double() * backward.double())
        assert abs(left - right) < 1e-6 * forward.double().norm() * sinogram.double().norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_single(dtype):
    """Against the same rounded input in double precision: one rounding, of the result, is left."""
    geometry = GEOMETRIES["fan-flat"]
    given = tensors(geometry, GRID, 2, dtype)
    footprints = FOOTPRINTS if dtype == torch.float16 else ("joseph",)
    ours = maps(get_backend("triton", geometry, GRID), *given, footprints)
    reference = get_backend("torch", geometry, GRID)
    for name, expected in maps(reference, *(t.double() for t in given), footprints).items():
        assert ours[name].dtype == dtype
        assert relative_error(ours[name].double(), expected) < torch.finfo(dtype).eps / 2, name


def test_half_precision_reaches_the_kernels_as_it_is(monkeypatch):
    from fedm2ct.physics.projectors.triton_backend import TritonBackend

    seen = []

    def record(self, image, footprint):
        seen.append((image.dtype, footprint))
        return image.new_zeros(len(image), *self.geometry.shape)

    monkeypatch.setattr(TritonBackend, "project", record)
    project = Projector(GEOMETRIES["fan-flat"], GRID, "triton", "distance-driven")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        project(torch.zeros(1, *GRID.shape, dtype=dtype, device=DEVICE))
        assert seen.pop() == (dtype, "distance-driven")


def test_tiles_and_blocks_of_a_batch_fit_together_and_runs_repeat(monkeypatch):
    from fedm2ct.physics.projectors.triton_backend import TritonBackend

    geometry = replace(GEOMETRIES["fan-flat"], angles_rad=(0.1, 2.9, 0.8))
    grid = ImageGrid(6, 17, 2.3)
    given = tensors(geometry, grid, 3, torch.float32)
    whole = maps(TritonBackend(geometry, grid), *given, ("joseph",))
    monkeypatch.setattr(TritonBackend, "ray_tile", (2, 16))
    monkeypatch.setattr(TritonBackend, "pixel_tile", (4, 16))
    monkeypatch.setattr("fedm2ct.physics.projectors.triton_backend._MOST_IMAGES", 2)
    parts = maps(TritonBackend(geometry, grid), *given, ("joseph",))
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-6, atol=1e-4, msg=name)
    if DEVICE == "cuda":
        again = maps(TritonBackend(geometry, grid), *given, ("joseph",))
        assert all(torch.equal(again[name], parts[name]) for name in parts)


NARROW = {
    "parallel": ParallelGeometry((0.1, 0.8), 60, 0.4),
    "fan-flat": FanGeometry((0.1, 0.8), 60, 0.7, 595.0, 1085.6),
    "fan-curved-flying": FanGeometry(
        (0.1, 0.8), 60, 0.7, 595.0, 1085.6, "curved", 4.0, (0.004, -0.01), (5.0, -9.0)
    ),
}


@pytest.mark.parametrize("name", NARROW)
def test_no_ray_that_meets_a_pixel_is_overlooked(name, monkeypatch):
    """Small tiles far from the source: the bound on the search is as tight as it gets."""
    from fedm2ct.physics.projectors.triton_backend import TritonBackend

    monkeypatch.setattr(TritonBackend, "pixel_tile", (8, 8))
    geometry, grid = NARROW[name], ImageGrid(13, 16, 1.0)
    ours, reference = TritonBackend(geometry, grid), get_backend("torch", geometry, grid)
    sinogram = random((1, *geometry.shape), 1, torch.float64, DEVICE)
    for footprint in FOOTPRINTS:
        expected = reference.project_adjoint(sinogram, footprint)
        assert relative_error(ours.project_adjoint(sinogram, footprint), expected) < 1e-12


def test_gradients_of_sinogram_and_weights():
    geometry = replace(GEOMETRIES["fan-flat"], angles_rad=(0.3, 2.0))
    x, weights = random((1, 2, 19), 4, device=DEVICE), random((2, 19), 5, device=DEVICE)
    y = random((1, *GRID.shape), 6, device=DEVICE)
    gradients = []
    for backend in ("triton", "torch"):
        inputs = x.clone().requires_grad_(), weights.clone().requires_grad_()
        image = WeightedBackprojector(geometry, GRID, backend)(*inputs)
        gradients.append(torch.autograd.grad(torch.sum(image * y), inputs))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)
    projector = Projector(geometry, GRID, "triton", "distance-driven")
    assert_adjoint(projector, GRID.shape, geometry.shape, torch.float64, DEVICE)


LARGE = {
    "flat": FanGeometry((1.2, 5.5), 736, 1.2858, 595.0, 1085.6),
    "curved-flying": FanGeometry(
        (1.2, 5.5), 736, 1.2858, 595.0, 1085.6, "curved", 1.3, (0.001, -0.002), (1.0, -2.0)
    ),
    "parallel": ParallelGeometry((1.2, 5.5), 1000, 0.35),
}


@pytest.mark.parametrize("name", LARGE)
def test_positions_are_good_to_a_ten_thousandth_at_full_size(name, monkeypatch):
    """Where 0 and 1 alternate, an interpolated value is off by as much as its position is."""
    from fedm2ct.physics.projectors.triton_backend import INTERPRETED, TritonBackend

    if INTERPRETED:
        monkeypatch.setattr(TritonBackend, "ray_tile", (2, 1024))
        monkeypatch.setattr(TritonBackend, "pixel_tile", (64, 512))
    geometry, grid = LARGE[name], ImageGrid(512, 512, 0.7)
    ours, reference = TritonBackend(geometry, grid), get_backend("torch", geometry, grid)
    image = torch.zeros(1, *grid.shape, device=DEVICE)
    image[0, 3] = torch.arange(512, device=DEVICE) % 2
    table = ray_table(geometry, grid)
    per_mm = torch.from_numpy(table.by_row / table.length_mm).to(DEVICE)
    off = (ours.project(image).double() - reference.project(image.double()))[0] * per_mm
    assert 0 < off.abs().max() < 5e-5

    sinogram = torch.zeros(1, *geometry.shape, device=DEVICE)
    sinogram[0, 1, 1:-1] = torch.arange(geometry.n_bins - 2, device=DEVICE) % 2
    inner = torch.zeros_like(sinogram, dtype=torch.float64)
    inner[0, 1, 1:-1] = 1.0
    weight = reference.backproject(inner)
    off = (ours.backproject(sinogram).double() - reference.backproject(sinogram.double())) / weight
    assert 0 < off[weight > 0.3].abs().max() < 1e-4


@pytest.mark.cuda
def test_every_map_can_be_captured_in_a_graph():
    geometry = GEOMETRIES["fan-flat"]
    given = tensors(geometry, GRID, 2, torch.float32)
    backend = get_backend("triton", geometry, GRID)
    maps(backend, *given)  # compiles, and moves the tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = maps(backend, *given)
    for tensor in given:
        tensor.mul_(-2.0)
    graph.replay()
    for name, expected in maps(backend, *given).items():
        assert torch.equal(captured[name], expected), name


def test_auto_takes_triton_for_cuda_tensors_where_it_is_installed(monkeypatch):
    from fedm2ct.physics import operators

    assert operators._backend_for(torch.device("cpu")) == "cpu"
    assert operators._backend_for(torch.device("cuda")) == "triton"
    assert operators._backend_for(torch.device("mps")) == "torch"
    monkeypatch.setattr("fedm2ct.physics.projectors.find_spec", lambda name: None)
    assert operators._backend_for(torch.device("cuda")) == "torch"


def test_refuses_what_it_cannot_do(monkeypatch):
    from fedm2ct.physics.projectors import triton_backend

    geometry = ParallelGeometry((0.0,), 5, 1.0)
    with pytest.raises(ValueError, match="takes float16, bfloat16, float32 and float64"):
        get_backend("triton", geometry, GRID).project(
            torch.zeros(1, *GRID.shape, device=DEVICE).to(torch.float8_e5m2)
        )
    with pytest.raises(ValueError, match="fan as wide"):
        wide = FanGeometry((0.0,), 5, 1.0, 29.0, 60.0, "curved", 0.0, (1.2,), (0.0,))
        get_backend("triton", wide, GRID).backproject(torch.zeros(1, 1, 5, device=DEVICE))
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        Projector(geometry, GRID, "triton")(torch.zeros(GRID.shape))
    monkeypatch.setattr("fedm2ct.physics.projectors.find_spec", lambda name: None)
    get_backend.cache_clear()
    with pytest.raises(ImportError, match="needs the package triton"):
        Projector(geometry, GRID, "triton")
    assert Projector(geometry, GRID)(torch.zeros(GRID.shape)).shape == (1, 5)


def test_kernels_compile_for_gpus_and_use_no_atomics(tmp_path):
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.properties.triton_compile"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    facts = [json.loads(line) for line in result.stdout.splitlines()]
    kernels = {"joseph", "footprint", "project_adjoint", "backproject", "backproject_adjoint"}
    for capability in (75, 80, 90):
        assert {f["kernel"] for f in facts if f["capability"] == capability} == kernels
    assert len(facts) == 4 * 7
    assert all(f["bytes"] > 0 and f["atomics"] == 0 for f in facts)
