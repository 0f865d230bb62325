"""Compile every Triton kernel down to machine code, which needs no GPU; print what they use.

The interpreter takes more than the compiler does: only this shows that the kernels are valid.
"""

import json
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fedm2ct.physics.projectors import triton_pixels, triton_rays

SIZES = ("batch", "views", "bins", "rows", "columns")
VIEWS = {
    "flat": {"KIND": 1, "ATAN": (), "ASIN": ()},
    "curved": {"KIND": 3, "ATAN": (-0.33, 0.2, -0.14), "ASIN": (0.17, 0.08)},
}
RAYS, PIXELS = {"BLOCK_V": 4, "BLOCK_D": 32}, {"BLOCK_R": 16, "BLOCK_C": 32}


def kernels(view: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    yield triton_rays.joseph, {"UNROLL": 4, **RAYS}
    yield triton_rays.footprint, RAYS
    yield triton_rays.backproject_adjoint, {**view, **RAYS}
    for weighted in (False, True):
        yield triton_pixels.backproject, {"WEIGHTED": weighted, **view, **PIXELS}
    for driven in (False, True):
        yield triton_pixels.project_adjoint, {"DISTANCE_DRIVEN": driven, **view, **PIXELS}


def compiled(kernel: Any, options: dict[str, Any], storage: str, work: str, capability: int) -> Any:
    types = {"table": f"*{work}", "view_table": f"*{work}", "spans": "*i32", "stretch": "fp32"}
    signature = {
        name: "constexpr"
        if name in options
        else "i32"
        if name in SIZES
        else types.get(name, f"*{storage}")
        for name in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=options)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def main() -> None:
    for capability, view, storage, work, more in (
        (75, "curved", "fp16", "fp32", {"BLOCK_B": 8}),
        (80, "flat", "bf16", "fp32", {"BLOCK_B": 1, "batch": 1, "bins": 1}),
        (90, "curved", "fp64", "fp64", {"BLOCK_B": 2, "rows": 1, "columns": 1, "views": 1}),
    ):
        for kernel, options in kernels(VIEWS[view]):
            result = compiled(kernel, {**options, **more}, storage, work, capability)
            facts = {
                "kernel": kernel.__name__,
                "capability": capability,
                "bytes": len(result.asm["cubin"]),
                "atomics": result.asm["ptx"].count("atom.") + result.asm["ptx"].count("\tred."),
            }
            print(json.dumps(facts))


if __name__ == "__main__":
    main()
