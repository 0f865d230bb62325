"""A whole federation on this machine: real processes, TLS, node keys, nginx where there is one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fedm2ct
from fedm2ct.deployment.folders import CoordinatorFolder, SiteFolder
from fedm2ct.deployment.processes import is_alive, read_status
from fedm2ct.deployment.registry import registered_nodes

from ..runs import cli

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
PROTOCOLS = {"A": "demo-sparse", "B": "demo-parallel"}
SCANS = {"A": ("ann",), "B": ("bob", "cat")}

_FEDERATION = """
name = "tiny"
methods = ["{method}"]
seeds = [4]
image_size = 16

[[sites]]
name = "A"
protocol = "demo-sparse"

[[sites]]
name = "B"
protocol = "demo-parallel"

[meta]
scans = ["{folder}/evelyn.npz"]
slices = 3

[model]
width = 2

[training]
rounds = {rounds}
local_steps = {steps}
batch_size = 2

[fedm2ct]
meta_steps = 2
cross_protocol = 1.0
"""

_SITE = """
name = "{name}"
protocol = "{protocol}"
scans = [{scans}]
slices = 7
supernode_port = {port}
threads = 1
message_timeout_s = 15

[public]
scans = ["{folder}/evelyn.npz"]
"""


def free_ports(count):
    """Return ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Federation:
    """The folders of a federation on loopback."""

    root: Path
    patients: Path
    proxied: bool

    @property
    def coordinator(self):
        return CoordinatorFolder(self.root / "coordinator")

    def site(self, name):
        return SiteFolder(self.root / f"site-{name}")

    def write_federation(self, method="fedm2ct", rounds=2, steps=2):
        path = self.root / f"{method}.toml"
        text = _FEDERATION.format(folder=self.patients, method=method, rounds=rounds, steps=steps)
        path.write_text(text)
        return path


def made(root, patients):
    """Make a coordinator and its sites with the commands that a person would use."""
    proxied = NGINX is not None
    superlink, front, *nodes = free_ports(2 + len(PROTOCOLS))
    federation = Federation(root, patients, proxied)
    address = ["--host", "127.0.0.1", "--listen", "127.0.0.1", "--superlink-port", superlink]
    address += ["--port", front] if proxied else ["--port", superlink, "--no-proxy"]
    place = federation.coordinator.root
    assert cli("coordinator", "init", place, *address) == 0
    for (name, protocol), port in zip(PROTOCOLS.items(), nodes, strict=True):
        folder = federation.site(name)
        assert cli("site", "init", folder.root, "--name", name) == 0
        scans = ", ".join(f'"{patients}/{scan}.npz"' for scan in SCANS[name])
        text = _SITE.format(name=name, protocol=protocol, scans=scans, port=port, folder=patients)
        folder.settings_file.write_text(text)
        assert cli("coordinator", "register", place, name, folder.public_key(name)) == 0
    return federation


def start_up(kind, root, **environment):
    """Start ``fedm2ct KIND up ROOT`` in a process of its own; its output goes to a file."""
    source = str(Path(fedm2ct.__file__).parents[1])
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with (root / "up.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fedm2ct", kind, "up", str(root)],
            env={**os.environ, "PYTHONPATH": source, **threads, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end(process):
    """End a process by its id, as systemd does."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pids(folder):
    """Return the process ids of a folder's services."""
    status = read_status(folder.state / "services.json")
    return [] if status is None else [s["pid"] for s in status["services"].values() if s["pid"]]


def wait_until(true, seconds, what):
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.2)
    raise AssertionError(f"after {seconds} s: {what}")


@contextlib.contextmanager
def up(federation, sites=tuple(PROTOCOLS)):
    """Run coordinator and sites; afterwards none of their processes is left."""
    folders = [federation.coordinator, *(federation.site(name) for name in sites)]
    kinds = ["coordinator", *("site" for _ in sites)]
    processes = []
    try:
        processes.append(start_up("coordinator", federation.coordinator.root))
        wait_until(
            lambda: registered_nodes(federation.coordinator).keys() == PROTOCOLS.keys(),
            60,
            "the coordinator has not started",
        )
        for name in sites:
            folder = federation.site(name)
            join_when_it_answers(federation, folder)
            processes.append(start_up("site", folder.root))
        yield dict(zip(("coordinator", *sites), processes, strict=True))
    except BaseException:
        print(logs(federation))
        raise
    finally:
        running = [pid for folder in folders for pid in pids(folder)]
        for process in reversed(processes):
            end(process)
        assert kinds  # one a folder
        wait_until(lambda: not any(map(is_alive, running)), 20, f"left behind: {running}")


def join_when_it_answers(federation, folder):
    wait_until(
        lambda: cli("site", "join", folder.root, federation.coordinator.invitation) == 0,
        60,
        "the coordinator does not answer",
    )


def logs(federation):
    """Return the ends of all logs, for a failed test to show."""
    paths = [*federation.root.glob("*/logs/*.log"), *federation.root.glob("*/up.log")]
    return "\n".join(f"=== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(paths))
