"""Tiny whole runs through the command line: six patients of 32 x 32, images of 16 x 16."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import fedm2ct
from fedm2ct.cli import main

from .tiny import scan

PATIENTS = ("ann", "bob", "cat", "dan", "evelyn", "new")
ROUNDS = 3
_CONFIG = """
name = "tiny"
methods = [{methods}]
seeds = [4]
image_size = 16

[[sites]]
name = "A"
protocol = "{protocol}"
scans = ["{folder}/ann.npz"]
slices = 7

[[sites]]
name = "B"
protocol = "demo-parallel"
scans = ["{folder}/bob.npz", "{folder}/cat.npz"]
slices = 7

[test]
scans = ["{folder}/dan.npz"]
slices = 2

[meta]
scans = ["{folder}/evelyn.npz"]
slices = 3

[model]
width = 2

[training]
rounds = {rounds}
local_steps = 2
batch_size = 2

[fedm2ct]
meta_steps = 2
"""


def write_patients(folder: Path) -> Path:
    """Write every patient's scan: 7 slices, 5 mm apart, of 12.5 mm pixels.

    A bone at the top left tells how an image is turned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(PATIENTS):
        made = scan(name, number, slices=7)
        made.hu[:, 11:14, 9:13] = 900.0
        np.savez(folder / f"{name}.npz", hu=made.hu.round(), spacing_zyx_mm=made.spacing_zyx_mm)
    return folder


def write_config(
    path: Path,
    scans: Path,
    *,
    methods: tuple[str, ...] = ("fbp", "fedm2ct"),
    rounds: int = ROUNDS,
    protocol: str = "demo-sparse",
    change: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write a configuration of two sites; `change` edits its text."""
    names = ", ".join(f'"{m}"' for m in methods)
    text = _CONFIG.format(methods=names, folder=scans, rounds=rounds, protocol=protocol)
    path.write_text(change(text), encoding="utf-8")
    return path


def cli(*arguments: object) -> int:
    """Run the command line in this process; return its exit code."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def start(
    *arguments: object, variables: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """Start the command line in a process of its own, as a user does."""
    command = [sys.executable, "-m", "fedm2ct", *map(str, arguments)]
    source = str(Path(fedm2ct.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, **(variables or {})}
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def run_jobs_here(jobs, workers, on_event):
    """Stand in for `run_jobs`: the same units of work, in this process."""
    for job in jobs:
        job.function(**job.arguments, on_event=lambda e, n=job.name: on_event({"job": n, **e}))


def weights(run: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of every model of a run."""
    return {
        f"{path.relative_to(run)}:{name}": tensor.tobytes()
        for path in sorted(run.rglob("model.safetensors"))
        for name, tensor in safetensors.numpy.load_file(path).items()
    }


def leftovers(folder: Path) -> list[Path]:
    """Return files that should not outlive a command."""
    hidden = [p for p in folder.rglob("*") if p.name.startswith(".")]
    return [*folder.rglob("*.writing-*"), *folder.rglob("*.tmp"), *hidden]
