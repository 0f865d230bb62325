"""CPU time and memory of a round from 4 to 64 sites: benchmarks/results/scale.json.

    python benchmarks/scale.py [--sites 4 16 64] [--rounds 3]

Each line is a process of its own, because a process's peak of memory never falls. In ``server`` the
sites send back what they were sent, changed a little, so that what grows is the server's alone;
``held`` keeps every upload of a round in memory, as a server without the files on disk would. In
``whole`` the sites are real ones (``fedavg``, small images, two steps a round), each with its data,
model and optimiser in this process, so that memory must grow with them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from federation_runs import configured, write

from fedm2ct.federation.method import ClientHalf, ServerHalf, State, Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.run import run_method
from fedm2ct.federation.spool import Spool
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTask
from fedm2ct.model.image import build_image_network
from fedm2ct.physics.protocols import get_protocol
from fedm2ct.pipeline.phantom_scans import phantom_scan
from fedm2ct.pipeline.prepare import acquire

RESULT = Path(__file__).parent / "results" / "scale.json"
MODES = ("server", "held", "whole")


class Echo(ClientHalf):
    """A site that costs nothing: it sends back what it was sent, a little changed."""

    def __init__(self, site: str, number: int) -> None:
        self.site, self.number = site, number

    def fit(self, round_index: int, shared: State) -> Upload:
        """Return the download, shifted."""
        shift = 1e-3 * (1 + self.number % 7)
        return Upload(self.site, {n: t + shift for n, t in shared.items()}, 10)

    def finish(self, shared: State) -> dict[str, float]:
        """Return nothing."""
        return {}

    def private_state(self) -> State:
        """Return something, as every site has a private part."""
        return {"number": torch.tensor(self.number)}

    def load_private_state(self, state: State) -> None:
        """There is nothing to restore."""

    @property
    def fingerprint(self) -> str:
        """Return the same for all."""
        return "echo"


def echoes(sites: int, mode: str) -> tuple[ServerHalf, dict[str, ClientHalf]]:
    """Return a server with a network of the default size, and sites that cost nothing."""
    network = build_image_network("unet", 1, 32)
    server = AveragingServer({n: t.detach().clone() for n, t in network.state_dict().items()})
    if mode == "held":
        Spool.keep = lambda self, upload: upload  # type: ignore[method-assign]  # on purpose
    return server, {f"s{i:03d}": Echo(f"s{i:03d}", i) for i in range(sites)}


def real(sites: int) -> tuple[ServerHalf, dict[str, ClientHalf]]:
    """Return FedAvg over real sites: phantoms of 32 x 32, two training slices each."""
    protocol = get_protocol("demo-sparse").scaled(32)
    scan = phantom_scan("phantom-1")
    tasks = []
    for index in range(sites):
        name = f"s{index:03d}"
        data = acquire([(scan, [index % 8, 8 + index % 8])], protocol, generator(0, name))
        tasks.append(SiteTask(name, protocol, data, data[:1]))
    config = configured(
        {"training": {"rounds": 8, "local_steps": 2}}, methods=["fedavg"], image_size=32
    )
    halves = METHODS["fedavg"](Setup(config, tasks, 0))
    return halves.server, dict(halves.clients)


def child(mode: str, sites: int, rounds: int) -> dict[str, float]:
    """Run one line of the table in this process: CPU seconds a round, MB above the start."""
    torch.set_num_threads(1)
    server, clients = real(sites) if mode == "whole" else echoes(sites, mode)
    with tempfile.TemporaryDirectory() as folder:
        warm = dict(list(clients.items())[:2])
        run_method(server, warm, 1, Path(folder) / "w", resume=False, seed=0, fingerprint="w")
        before, marks = peak_mb(), [time.process_time()]

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "checkpoint":
                marks.append(time.process_time())

        arguments = {"resume": False, "seed": 0, "fingerprint": "x", "on_event": on_event}
        run_method(server, clients, rounds, Path(folder) / "r", **arguments)  # type: ignore[arg-type]
    times = sorted(b - a for a, b in pairwise(marks[1:]))
    return {"round_cpu_s": times[len(times) // 2], "peak_growth_mb": peak_mb() - before}


def peak_mb() -> float:
    """Return the most memory that this process has had resident, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure every line in a process of its own, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("MODE", "SITES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        mode, sites = arguments.child
        print(json.dumps(child(mode, int(sites), arguments.rounds)))
        return
    table: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        for sites in arguments.sites:
            command = [sys.executable, __file__, "--rounds", str(arguments.rounds)]
            done = subprocess.run(
                [*command, "--child", mode, str(sites)], check=True, capture_output=True, text=True
            )
            table.setdefault(mode, {})[str(sites)] = json.loads(done.stdout.splitlines()[-1])
            print(mode, sites, table[mode][str(sites)], flush=True)
    upload = sum(t.numel() for t in echoes(1, "server")[0].initial_shared().values()) * 4
    write(RESULT, configured({}, methods=["fedavg"]), {"upload_mb": upload / 2**20, "modes": table})


if __name__ == "__main__":
    main()
