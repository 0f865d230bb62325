"""Benchmark of the deployment: what a round costs beside the training, against a plain Flower app.

    python benchmarks/deployment.py               # about five minutes on two cores

Both federations run on this machine, one after the other and in turns: a coordinator and two sites,
TLS, registered keys. *Stock* is a Flower app as its documentation has it (FedAvg, flower-superlink
and flower-supernode as they are, one process a message), whose clients import torch and send back
what they were sent: no training, no data, nothing kept. *Ours* is FedAvg as `fedm2ct` deploys it,
with nginx, validation of uploads, checkpoints and private states on disk, and one training step on
16 x 16 pixels, which is counted as overhead. Numbers go to ``benchmarks/results/deployment.json``.
"""

import argparse
import contextlib
import json
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from deployment_stock import StockFederation

from fedm2ct.deployment.coordinator import init_coordinator
from fedm2ct.deployment.federation_file import load_federation
from fedm2ct.deployment.folders import CoordinatorFolder
from fedm2ct.deployment.registry import register, registered_nodes
from fedm2ct.deployment.settings import CoordinatorSettings
from fedm2ct.deployment.site import init_site, join
from fedm2ct.deployment.train import train_deployed
from fedm2ct.federation.storage import load_tensors
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "deployment.json"
GOAL = 1 / 3
"""Overhead a round may have, as a share of the stock app's."""
SITES = {"A": "demo-low-mas", "B": "demo-parallel"}
"""Names and protocols."""
_BEGINS = re.compile(r"(\d+-\d+-\d+ [\d:]+),(\d+) INFO \[ROUND (\d+)/")
_FEDERATION = """
name = "overhead"
methods = ["fedavg"]
image_size = 16
{sites}
[meta]
source = "none"
[model]
width = {width}
[training]
rounds = {rounds}
local_steps = 1
batch_size = 1
"""


class OurFederation:
    """A coordinator and two sites on this machine, as docs/deploy.md sets them up.

    Parameters
    ----------
    root
        A folder to work in.
    ports
        Four free ports: the SuperLink's, the proxy's, and the nodes' two.
    """

    def __init__(self, root: Path, ports: Sequence[int]) -> None:
        self._root = root
        settings = CoordinatorSettings(
            host="127.0.0.1", listen="127.0.0.1", superlink_port=ports[0], port=ports[1]
        )
        self.coordinator: CoordinatorFolder = init_coordinator(root / "coordinator", settings)
        self._sites = []
        for number, ((name, protocol), port) in enumerate(
            zip(SITES.items(), ports[2:], strict=True), 1
        ):
            site = init_site(root / name, name, protocol, port)
            scan = root / f"{name}.npz"
            rng = np.random.default_rng(number)
            hu = rng.normal(0, 20, (8, 32, 32)).round()
            hu[:, :6] = -1000
            np.savez(scan, hu=hu, spacing_zyx_mm=np.array([5.0, 12.5, 12.5]))
            text = site.settings_file.read_text()
            text = re.sub(r"scans = \[.*\]  ", f'scans = ["{scan}"]  ', text, count=1)
            site.settings_file.write_text(text.replace("threads = 0", "threads = 1"))
            register(self.coordinator, name, site.public_key(name))
            join(site, self.coordinator.invitation)
            self._sites.append(site)

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Run the services for a while."""
        places = [("coordinator", self.coordinator.root)]
        places += [("site", site.root) for site in self._sites]
        processes = []
        try:
            for kind, root in places:
                with (root / "up.log").open("ab") as log:
                    command = [sys.executable, "-m", "fedm2ct", kind, "up", str(root)]
                    processes.append(
                        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                    )
            _wait(lambda: set(registered_nodes(self.coordinator)) == set(SITES))
            yield
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(60)

    def run(self, width: int, rounds: int) -> dict[str, Any]:
        """Run FedAvg; return when rounds began, and the shapes that were sent."""
        sites = "".join(f'[[sites]]\nname = "{n}"\nprotocol = "{p}"\n' for n, p in SITES.items())
        toml = self._root / "federation.toml"
        toml.write_text(_FEDERATION.format(sites=sites, width=width, rounds=rounds))
        run = self._root / f"run-{time.time_ns()}"
        config = load_federation(toml)
        train_deployed(self.coordinator, config, run, resume=False, on_event=lambda _: None)
        unit = run / "fedavg" / "seed-0"
        tensors, _ = load_tensors(unit / "checkpoints" / f"round-{rounds:04d}.safetensors")
        shapes = {n: list(t.shape) for n, t in tensors.items() if n.startswith("shared/")}
        return {"begins": _begins(unit / "flower.log"), "shapes": shapes}


def _begins(log: Path) -> dict[int, float]:
    """Return when each round began, from Flower's own log, in seconds."""
    found = {}
    for day, milliseconds, number in _BEGINS.findall(log.read_text(encoding="utf-8")):
        at = datetime.strptime(day, "%Y-%m-%d %H:%M:%S").timestamp()
        found[int(number)] = at + int(milliseconds) / 1000
    return found


def round_seconds(begins: dict[int, float]) -> list[float]:
    """Return how long rounds took; the first, which builds everything, is left out."""
    numbers = sorted(begins)
    return [begins[k + 1] - begins[k] for k in numbers[1:-1]]


def stock_phases(outcome: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of each part of a stock round."""
    begins = {line["round"]: line["at"] for line in outcome["server"]}
    parts: dict[str, list[float]] = {}
    for line in outcome["clients"]:
        if line["round"] == 1:
            continue
        marks = {
            "until a process is started (polling)": line["process"] - begins[line["round"]],
            "interpreter, flwr, bundle": line["began"] - line["process"],
            "importing torch": line["loaded"] - line["began"],
            "fetching the message": line["called"] - line["loaded"],
            "the app itself": line["done"] - line["called"],
            "answer and polling": begins[line["round"] + 1] - line["done"],
        }
        for name, seconds in marks.items():
            parts.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in parts.items()}


def measure(width: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Measure both in turns."""
    ours: list[float] = []
    stock: list[float] = []
    phases: list[dict[str, float]] = []
    shapes: dict[str, list[int]] = {}
    root = Path(tempfile.mkdtemp(prefix="fedm2ct-bench-"))
    try:
        (root / "ours").mkdir()
        (root / "stock").mkdir()
        mine = OurFederation(root / "ours", _free_ports(4))
        other = StockFederation(root / "stock", _free_ports(4))
        for _ in range(repeats):
            with mine.up():
                outcome = mine.run(width, rounds)
            shapes = outcome["shapes"]
            ours += round_seconds(outcome["begins"])
            with other.up() as control:
                timed = other.run(control, shapes, rounds)
            stock += round_seconds({line["round"]: line["at"] for line in timed["server"]})
            phases.append(stock_phases(timed))
            print(f"ours {ours[-1]:.2f} s a round, stock {stock[-1]:.2f} s", file=sys.stderr)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    payload = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    ratio = statistics.median(ours) / statistics.median(stock)
    return {
        "payload_bytes": payload,
        "rounds": rounds,
        "repeats": repeats,
        "ours_s": ours,
        "stock_s": stock,
        "ours_median_s": statistics.median(ours),
        "stock_median_s": statistics.median(stock),
        "stock_phases_s": phases,
        "ratio": ratio,
        "goal": GOAL,
        "goal_met": ratio <= GOAL,
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(true: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.3)
    raise RuntimeError(f"not ready after {seconds:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=28, help="of the network; 28 sends 5 MB")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    result = {
        **provenance(),
        **measure(given.width, given.rounds, given.repeats),
    }
    write_atomically(given.out, json.dumps(result, indent=1).encode())
    print(f"{result['ratio']:.2f} of the stock app's overhead (goal: {GOAL:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
