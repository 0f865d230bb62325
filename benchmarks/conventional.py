"""Time SIRT and total variation: python benchmarks/conventional.py [--slices 4].

CPU seconds a slice on analytic phantoms, of one thread (set NUMBA_NUM_THREADS=1), and how near
total variation comes to its minimum, at the demo's sites (128 x 128) and under the Mayo protocol
(512 x 512). Prints; writes nothing.
"""

import argparse
import time

import torch

from fedm2ct.data.simulate import simulate
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import get_protocol
from fedm2ct.physics.total_variation import total_variation
from fedm2ct.pipeline.phantom_scans import phantom_scan

_CASES = ("demo-low-mas", "demo-sparse", "demo-limited", "demo-parallel", "mayo")


def main() -> None:
    """Parse the command line, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--strength", type=float, default=1e-4)
    parser.add_argument("--protocols", nargs="+", default=_CASES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.slices} slices at once; CPU seconds a slice")
    for name in arguments.protocols:
        _case(name, arguments)


def _case(name: str, arguments: argparse.Namespace) -> None:
    protocol, n = get_protocol(name), arguments.iterations
    projector = Projector(protocol.geometry, protocol.grid)
    noise = torch.Generator().manual_seed(0)
    data = simulate(phantom_scan("phantom-1"), range(arguments.slices), protocol, noise)
    sinogram, start = data.projections, fbp(data.projections, protocol.geometry, protocol.grid)
    sirt(sinogram, projector, 1)  # compiles
    began = time.process_time()
    sirt(sinogram, projector, n)
    between = time.process_time()
    found = total_variation(sinogram, projector, arguments.strength, n, initial=start)
    ended = time.process_time()
    relative = float((found.gap / found.objective).max())
    print(
        f"{name:14} {protocol.grid.rows:4}^2, {protocol.geometry.n_views:4} views, {n} iterations: "
        f"SIRT {(between - began) / arguments.slices:.2f}, "
        f"TV {(ended - between) / arguments.slices:.2f} (gap {relative:.1e} of the objective)"
    )


if __name__ == "__main__":
    main()
