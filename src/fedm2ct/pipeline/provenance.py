"""With what a number was made: code, versions, machine, when."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import fedm2ct

_PACKAGES = ("torch", "numpy", "scipy", "numba", "flwr", "SimpleITK", "safetensors")


def provenance() -> dict[str, Any]:
    """Return date (UTC), commit, versions and machine, as every stored result has them."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }


def origin() -> dict[str, Any]:
    """Return day (UTC), commit and machine: what tells units apart that were made elsewhere."""
    day = datetime.now(UTC).date().isoformat()
    return {"date": day, "git_commit": git_commit(), "machine": machine()}


def versions() -> dict[str, str]:
    """Return the versions of this project, of Python and of the packages that numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"fedm2ct": fedm2ct.__version__, "python": platform.python_version(), **found}


def git_commit() -> str | None:
    """Return the commit of the source tree that runs, where there is one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(fedm2ct.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Return the processor's model, the cores that may be used, and the GPU where there is one."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count()
    return {"cpu": model, "cores": cores, "gpu": gpu}
