"""The plain Flower app that the deployment is compared with, and the programs that run it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_files

from fedm2ct.deployment import certificates
from fedm2ct.deployment.coordinator import init_coordinator
from fedm2ct.deployment.folders import CoordinatorFolder
from fedm2ct.deployment.settings import CoordinatorSettings
from fedm2ct.federation.control import Control

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

_PROJECT = """\
[project]
name = "stock"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "bench"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"
[tool.flwr.app.config]
rounds = 3
times = ""
shapes = ""
"""

_SERVER = """\
import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        with open(self.times, "a") as stream:
            stream.write(json.dumps({"round": server_round, "at": time.time()}) + "\\n")
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid, context):
    shapes = json.loads(context.run_config["shapes"])
    arrays = ArrayRecord({n: Array(np.zeros(s, np.float32)) for n, s in shapes.items()})
    strategy = Timed(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    strategy.times = context.run_config["times"]
    rounds = context.run_config["rounds"]
    strategy.start(grid, arrays, num_rounds=rounds, timeout=600)
    with open(strategy.times, "a") as stream:
        stream.write(json.dumps({"round": rounds + 1, "at": time.time()}) + "\\n")
"""

_CLIENT = """\
import json
import os
import time

began = time.time()
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict, Message
from flwr.clientapp import ClientApp

loaded = time.time()
app = ClientApp()


def process_start():
    with open("/proc/self/stat") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as stream:
        up = float(stream.read().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


@app.train()
def train(message, context):
    called = time.time()
    state = message.content["arrays"].to_torch_state_dict()
    reply = {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": 1})}
    answer = Message(RecordDict(reply), reply_to=message)
    number = message.content["config"]["server-round"]
    line = {"round": number, "process": process_start(), "began": began, "loaded": loaded,
            "called": called, "done": time.time()}
    with open(context.run_config["times"] + ".clients", "a") as stream:
        stream.write(json.dumps(line) + "\\n")
    return answer
"""


class StockFederation:
    """A SuperLink and two SuperNodes as Flower's documentation starts them, with TLS and keys.

    Parameters
    ----------
    root
        A folder to work in.
    ports
        Four free ports: the SuperLink's, one unused, and the nodes' two.
    """

    def __init__(self, root: Path, ports: Sequence[int]) -> None:
        self._root = root
        self._ports = ports
        settings = CoordinatorSettings(host="127.0.0.1", port=ports[1], superlink_port=ports[0])
        self._keys: CoordinatorFolder = init_coordinator(root / "keys", settings)
        self._processes: list[subprocess.Popen[bytes]] = []
        scripts = str(Path(sys.executable).parent)
        self._environment = {
            **os.environ,
            **QUIET,
            "FLWR_HOME": str(root / "flower"),
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        }

    @contextlib.contextmanager
    def up(self) -> Iterator[Control]:
        """Run the programs for a while."""
        try:
            self._start(
                "flower-superlink",
                *("--port", self._ports[0], "--enable-supernode-auth"),
                *("--ssl-certfile", self._keys.certificate, "--ssl-keyfile", self._keys.key),
                *("--ssl-ca-certfile", self._keys.authority),
                "--disable-runtime-dependency-installation",
            )
            control = Control(f"127.0.0.1:{self._ports[0]}", self._keys.authority)
            _wait(lambda: control.nodes() is not None)
            for number, port in enumerate(self._ports[2:]):
                private = self._root / f"{number}.key"
                public = private.with_suffix(".pub")
                if not private.exists():
                    certificates.make_site_key(private, public)
                control.register(f"node-{number}", certificates.read_public_key(public))
                self._start(
                    "flower-supernode",
                    *("--superlink", f"127.0.0.1:{self._ports[0]}", "--port", port),
                    *("--root-certificates", self._keys.authority),
                    *("--auth-supernode-private-key", private),
                )
            _wait(lambda: sum(node.online for node in control.nodes()) == 2)
            yield control
        finally:
            for process in reversed(self._processes):
                process.send_signal(signal.SIGTERM)
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._processes = []

    def run(self, control: Control, shapes: dict[str, list[int]], rounds: int) -> dict[str, Any]:
        """Run the app; return when rounds began at the server and what clients did when."""
        times = self._root / f"times-{time.time_ns()}.jsonl"
        files = {
            "pyproject.toml": _PROJECT.encode(),
            "LICENSE": b"Apache-2.0",
            "stock/__init__.py": b"",
            "stock/server.py": _SERVER.encode(),
            "stock/client.py": _CLIENT.encode(),
        }
        config = {"rounds": rounds, "times": str(times), "shapes": json.dumps(shapes)}
        run_id = control.start_run(build_fab_from_files(files)[0], config)
        _wait(lambda: control.run_status(run_id).status == "finished", 600)
        status = control.run_status(run_id)
        if status.ended != "completed":
            raise RuntimeError(f"the stock app failed: {status.details}")
        clients = times.with_name(f"{times.name}.clients")
        found = {"server": _lines(times), "clients": _lines(clients)}
        if len(found["clients"]) != 2 * rounds:
            raise RuntimeError("the stock app lost messages: its times would not be comparable")
        return found

    def _start(self, program: str, *arguments: object) -> None:
        path = shutil.which(program, path=self._environment["PATH"])
        if path is None:
            raise RuntimeError(f"{program} is not installed")
        with (self._root / f"{program}-{len(self._processes)}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [path, *map(str, arguments)],
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _wait(true: Callable[[], bool], seconds: float = 90.0) -> None:
    from fedm2ct.errors import FedM2CTError

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(FedM2CTError):
            if true():
                return
        time.sleep(0.3)
    raise RuntimeError(f"the stock federation is not ready after {seconds:.0f} s")
