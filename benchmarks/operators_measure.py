"""One measurement in a process of its own: `python operators_measure.py JSON FILE`.

The JSON says what to measure; each result is a line of JSON that is added to FILE as soon as it is
known, so that what is measured before a library crashes or hangs is not lost.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from operators_cases import (
    SETUPS,
    adjoint_mismatch,
    backprojection_error,
    bin_means,
    cases,
    line_integrals,
    phantom_image,
    random_pair,
    reconstruction_error,
    relative_error,
)
from operators_library import Library
from operators_memory import autograd_memory
from operators_peers import LIBRARIES
from peak_memory import PeakMemory
from torch import Tensor

from fedm2ct.units import MU_WATER_PER_MM

Row = dict[str, Any]
_LONG_SECONDS = 1.0
"""A first call this long is a measurement: memory that is touched first no longer matters."""


def measure_operation(spec: Row) -> Iterator[Row]:
    """Check an operation of a library, then time it for every batch and number of threads."""
    setup, operation = SETUPS[spec["setup"]], spec["operation"]
    library = LIBRARIES[spec["library"]](setup)
    library.set_threads(max(spec["threads"]))
    yield {"check": check(library, operation)}
    for case in cases(spec["batches"], spec["threads"]):
        library.set_threads(case["threads"])
        call = library.call(operation, _input(library, operation, case["batch"]))
        yield {**case, **timed(call.run, spec["repeats"], spec["seconds"])}


def _input(library: Library, operation: str, batch: int) -> Tensor:
    image, sinogram = random_pair(library.setup, batch)
    return image if operation == "forward" else sinogram


def check(library: Library, operation: str) -> dict[str, float]:
    """Return how far an operation is from what it should be; this is also the warm-up.

    Forward: relative error against the phantom's exact integrals along the bins' central rays and
    averaged over the bins. Adjoint: mismatch of the pair. Back-projection: relative difference from
    its definition. Filtered back-projection: relative error inside the scan's field of view.
    """
    setup = library.setup

    def made(what: str, x: Tensor) -> Tensor:
        call = library.call(what, x)
        call.run()
        return call.read()

    if operation == "forward":
        found = made("forward", phantom_image(setup))
        return {
            "error_against_rays": relative_error(found, line_integrals(setup.geometry)),
            "error_against_bin_means": relative_error(found, bin_means(setup.geometry)),
        }
    if operation == "fbp":
        exact = (line_integrals(setup.geometry) * MU_WATER_PER_MM).float()
        return {"error": reconstruction_error(made("fbp", exact), setup)}
    x, y = random_pair(setup, 1)
    if operation == "backproject":
        return {"difference": backprojection_error(made("backproject", y), y, setup)}
    return {"mismatch": adjoint_mismatch(x, y, made("forward", x), made("adjoint", y))}


def timed(run: Callable[[], None], repeats: int, seconds: float) -> dict[str, float | int | None]:
    """Time a call: median and minimum of `repeats`, fewer where they would exceed `seconds`.

    The first call measures memory; it counts as a repeat only where it is long.
    """
    with PeakMemory() as memory:
        first = _seconds(run)
    times = [first] if first > _LONG_SECONDS else []
    while len(times) < repeats and (not times or sum(times) + times[-1] < seconds):
        times.append(_seconds(run))
    return {
        "seconds": statistics.median(times),
        "fastest_seconds": min(times),
        "repeats": len(times),
        "peak_mb": memory.peak_mb,
        "kept_mb": memory.kept_mb,
    }


def _seconds(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure_first_calls(spec: Row) -> Iterator[Row]:
    """Time making the operators, and the first two calls; the first one compiles or loads."""
    setup = SETUPS[spec["setup"]]
    torch.set_num_threads(1)
    for name in spec["libraries"]:
        begin = time.perf_counter()
        library = LIBRARIES[name](setup)
        yield {"library": name, "operation": "make", "first_seconds": time.perf_counter() - begin}
        for operation in library.operations:
            call = library.call(operation, _input(library, operation, 1))
            first, second = _seconds(call.run), _seconds(call.run)
            yield {
                "library": name,
                "operation": operation,
                "first_seconds": first,
                "second_seconds": second,
            }


def measure_autograd_memory(spec: Row) -> Iterator[Row]:
    """Measure the memory of a forward and a backward pass."""
    torch.set_num_threads(max(spec["threads"]))
    yield autograd_memory(SETUPS[spec["setup"]], spec["operator"], spec["batch"])


TASKS: dict[str, Callable[[Row], Iterator[Row]]] = {
    "operation": measure_operation,
    "first-calls": measure_first_calls,
    "autograd-memory": measure_autograd_memory,
}


def main() -> None:
    """Measure what the first argument says."""
    spec, rows = json.loads(sys.argv[1]), Path(sys.argv[2])
    for row in TASKS[spec["task"]](spec):
        with rows.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
