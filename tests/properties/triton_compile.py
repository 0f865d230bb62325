"""Compile what the Triton backend launches down to machine code, which needs no GPU.

The interpreter takes more than the compiler does: only this shows that the kernels are valid. A
driver that only names a GPU stands in for the real one; every launch ends after compiling, and one
line of JSON says what came out.
"""

import json
from typing import Any

import torch
import triton.runtime.jit
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry
from fedm2ct.physics.projectors import triton_backend

FLYING = FanGeometry((0.3, 1.0), 16, 2.0, 100.0, 200.0, "curved", 0.0, (0.01, 0.0), (1.0, 0.0))
FLAT = FanGeometry((0.3,), 1, 2.0, 100.0, 200.0)  # numbers that are 1 are compiled in
CASES = (
    (75, FLYING, ImageGrid(16, 9, 1.0), 9, torch.float16),
    (80, FLAT, ImageGrid(1, 1, 1.0), 1, torch.bfloat16),
    (90, ParallelGeometry((0.0, 1.0), 32, 1.0), ImageGrid(16, 16, 1.0), 1, torch.float32),
    (90, FLYING, ImageGrid(5, 8, 1.0), 2, torch.float64),
)


class NamedGpu:
    """As much of a driver as compiling needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(kernel: Any, grid: Any) -> Any:
    def launch(*arguments: Any, **options: Any) -> None:
        result = kernel.warmup(*arguments, grid=grid, **options)
        code = result.asm["ptx"]
        facts = {
            "kernel": kernel.__name__,
            "capability": result.metadata.target.arch,
            "bytes": len(result.asm["cubin"]),
            "atomics": code.count("atom.") + code.count("\tred."),
        }
        print(json.dumps(facts))

    return launch


def main() -> None:
    triton.runtime.jit.JITFunction.__getitem__ = compile_only
    triton_backend.INTERPRETED = True  # CPU tensors will do
    for capability, geometry, grid, batch, dtype in CASES:
        driver.set_active(NamedGpu(capability))
        backend = triton_backend.TritonBackend(geometry, grid)
        image = torch.zeros((batch, *grid.shape), dtype=dtype)
        sinogram = torch.zeros((batch, *geometry.shape), dtype=dtype)
        for footprint in ("joseph", "distance-driven"):
            backend.project(image, footprint)
            backend.project_adjoint(sinogram, footprint)
        backend.backproject(sinogram)
        backend.backproject(sinogram, torch.zeros(geometry.shape, dtype=torch.float64))
        backend.backproject_adjoint(image)


if __name__ == "__main__":
    main()
