"""A whole run: every method under every seed, side by side in worker processes, then the report."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import ConfigError, RunConfig
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, run_jobs
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.manifest import config_fingerprint, read_manifest, write_manifest
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.summary import summarise
from fedm2ct.pipeline.unit import CONVENTIONAL, run_unit, unit_folder
from fedm2ct.report.html import write_report

Event = dict[str, Any]
_COST = {"fedm2ct": 3, "fbp": 0}
"""Relative cost of a method, 1 if not here: the costliest starts first, which evens out workers."""


def check_methods(config: RunConfig) -> None:
    """Refuse a method that does not exist.

    Raises
    ------
    ConfigError
        Naming the method and the closest known one.
    """
    known = [CONVENTIONAL, *METHODS]
    for name in config.methods:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"field 'methods': {name!r} is not known; {remedy}")


def check_folder(config: RunConfig, run: Path, resume: bool) -> None:
    """Refuse to mix two runs in a folder.

    Raises
    ------
    FedM2CTError
        When the folder holds a run and `resume` is false, or the run of another configuration.
    """
    if not (run / "manifest.json").exists():
        if run.exists() and any(run.iterdir()) and not resume:
            raise FedM2CTError(f"{run}: is not empty; choose another --out folder")
        return
    if not resume:
        raise FedM2CTError(f"{run}: holds a run; add --resume to go on, or choose another --out")
    if read_manifest(run).get("fingerprint") != config_fingerprint(config):
        raise FedM2CTError(
            f"{run}: holds a run of another configuration; choose another --out folder"
        )


def run_all(
    config: RunConfig,
    run: Path,
    *,
    resume: bool,
    workers: int,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """Train, score and report; return the summary.

    Raises
    ------
    FedM2CTError
        When a scan, a protocol or the folder cannot be used, or a unit of work fails. The run
        can then be resumed.
    """
    check_methods(config)
    check_folder(config, run, resume)
    cohort = read_cohort(config, lambda text: on_event({"event": "note", "text": text}))
    manifest = write_manifest(config, cohort, run)
    jobs = [
        Job(
            f"{method}/seed-{seed}",
            run_unit,
            {
                "config": config.model_dump(mode="json"),
                "method": method,
                "seed": seed,
                "run": str(run),
                "resume": resume,
            },
        )
        for seed in config.seeds
        for method in sorted(config.methods, key=lambda name: -_COST.get(name, 1))
    ]
    run_jobs(jobs, workers, on_event)
    return conclude(config, run, manifest)


def conclude(config: RunConfig, run: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write ``metrics.jsonl``, ``summary.json`` and ``report.html`` of a finished run."""
    summary = summarise(config, run)
    history = history_of(config, run)
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    write_atomically(run / "metrics.jsonl", lines.encode())
    write_atomically(run / "summary.json", json.dumps(summary, indent=1).encode())
    arrays = shown_arrays(config, run)
    write_report(run, summary, manifest, history, arrays, run / "report.html")
    return summary


def history_of(config: RunConfig, run: Path) -> list[Event]:
    """Return every unit's log, each line with its method and seed."""
    return [
        {"method": method, "seed": seed, **entry}
        for method in config.methods
        for seed in config.seeds
        for entry in RunLog(unit_folder(run, method, seed) / "metrics.jsonl").read()
    ]


def shown_arrays(config: RunConfig, run: Path) -> dict[str, np.ndarray]:
    """Return the test slices that the report shows, of the first seed."""
    arrays: dict[str, np.ndarray] = {}
    for method in config.methods:
        path = unit_folder(run, method, config.seeds[0]) / "arrays.npz"
        with np.load(path, allow_pickle=False) as stored:
            arrays.update({name: stored[name] for name in stored.files})
    return arrays
