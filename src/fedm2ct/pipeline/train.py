"""A whole run: every method under every seed, side by side in worker processes, then the report."""

import difflib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import ConfigError, RunConfig
from fedm2ct.data.sites import TEST
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, run_jobs
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import TEMPORARY_MARK, write_atomically
from fedm2ct.model.frequency import PRIVATE_NETWORKS
from fedm2ct.model.image import IMAGE_NETWORKS
from fedm2ct.pipeline.cohort_files import store_cohort
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.costs import audit_heads, costs
from fedm2ct.pipeline.fingerprints import run_fingerprint, unit_fingerprint
from fedm2ct.pipeline.lesions import read_lesions
from fedm2ct.pipeline.manifest import read_manifest, write_manifest
from fedm2ct.pipeline.notices import warnings_to
from fedm2ct.pipeline.perceptual import prepare_perceptual
from fedm2ct.pipeline.prepare import Cohort, read_cohort
from fedm2ct.pipeline.run_lock import LOCK, alone_in
from fedm2ct.pipeline.summary import summarise
from fedm2ct.pipeline.tuned import check_test_patients
from fedm2ct.pipeline.unit import is_finished, run_unit, stored_result, unit_folder
from fedm2ct.report.html import write_report

Event = dict[str, Any]
_COST = {
    "fedm2ct": 3,
    "sc3fl": 2,
    "moon": 2,
    "ditto": 2,
    "fml": 2,
    "fedkd": 2,
    "fedfdd": 2,
    "fbp": 0,
    "sirt": 0,
}
"""Relative cost of a method, 1 if not here: the costliest starts first, which evens out workers."""
_SLICES = ".slices"


def check_names(config: RunConfig) -> None:
    """Refuse a method or an image network that does not exist.

    Raises
    ------
    ConfigError
        Naming the field, the name and the closest known one.
    """
    for method in config.methods:
        _check_name("methods", method, ALL_METHODS)
    _check_name("model.private", config.model.private, list(PRIVATE_NETWORKS))
    _check_name("model.shared", config.model.shared, list(IMAGE_NETWORKS))


def check_pairs(config: RunConfig) -> None:
    """Refuse a federation of which no site has normal-dose images.

    Raises
    ------
    ConfigError
        If every site has ``supervision = "none"``.
    """
    if all(site.supervision == "none" for site in config.sites):
        raise ConfigError("field 'sites': one at least needs supervision = 'paired'")


def _check_name(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ConfigError(f"field {field!r}: {name!r} is not known; {remedy}")


def check_folder(config: RunConfig, run: Path, resume: bool) -> None:
    """Refuse to mix two runs in a folder.

    Raises
    ------
    FedM2CTError
        When the folder holds a run and `resume` is false, or the run of another configuration.
    """
    if not (run / "manifest.json").exists():
        if run.exists() and any(p.name != LOCK for p in run.iterdir()) and not resume:
            raise FedM2CTError(f"{run}: is not empty; choose another --out folder")
        return
    if not resume:
        raise FedM2CTError(f"{run}: holds a run; add --resume to go on, or choose another --out")
    if read_manifest(run).get("fingerprint") != run_fingerprint(config):
        raise FedM2CTError(
            f"{run}: holds a run of another configuration; choose another --out folder"
        )
    for method in config.methods:
        for seed in config.seeds:
            folder = unit_folder(run, method, seed)
            trained = stored_result(folder).get("trained")
            if trained not in (None, unit_fingerprint(config, method)):
                raise FedM2CTError(
                    f"{folder}: was trained with other options of {method}, another configuration; "
                    "remove it to train again, or choose another --out folder"
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
        When a scan, a protocol or the folder cannot be used, another command is at work in it, or
        a unit of work fails. The run can then be resumed.
    """
    with (
        alone_in(run),
        warnings_to(lambda text: on_event({"event": "warning", "reason": text})),
    ):
        manifest = run_units(config, run, resume=resume, workers=workers, on_event=on_event)
        on_event({"event": "note", "text": "writing the report"})
        return conclude(config, run, manifest)


def run_units(
    config: RunConfig,
    run: Path,
    *,
    resume: bool,
    workers: int,
    on_event: Callable[[Event], None],
    tuned_on: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and score every unit that is not finished; return the run's manifest.

    The caller sees to it that nobody else is at work in the folder: `run_lock.alone_in`.

    Raises
    ------
    FedM2CTError
        As `run_all` does, and when a test patient is among those that options were tuned on.
    """
    check_names(config)
    check_pairs(config)
    check_folder(config, run, resume)
    _remove_unfinished(run)
    cohort = read_cohort(config, lambda text: on_event({"event": "note", "text": text}))
    check_test_patients([(s.scan, s.patient) for s in cohort.split[TEST]], tuned_on)
    manifest = write_manifest(config, cohort, run)
    prepare_perceptual(
        config.evaluation.perceptual,
        lambda text, _: on_event({"event": "note", "text": text}),
    )
    with slices_on_disk(cohort, run / _SLICES) as slices:
        jobs = _jobs(config, run, slices, resume)
        left = _unfinished(jobs, config, run, manifest, on_event)
        run_jobs(left, workers, on_event)
    return manifest


def _jobs(config: RunConfig, run: Path, slices: Path, resume: bool) -> list[Job]:
    """Return every unit of work, by seed; within a seed the costliest comes first."""
    common = {
        "config": config.model_dump(mode="json"),
        "run": str(run),
        "cohort": str(slices),
        "resume": resume,
    }
    return [
        Job(f"{method}/seed-{seed}", run_unit, {**common, "method": method, "seed": seed})
        for seed in config.seeds
        for method in sorted(config.methods, key=lambda name: -_COST.get(name, 1))
    ]


def _unfinished(
    jobs: list[Job],
    config: RunConfig,
    run: Path,
    manifest: Mapping[str, Any],
    on_event: Callable[[Event], None],
) -> list[Job]:
    """Return the units that an earlier call has not finished; check the others and tell of them."""
    done = [
        job.name for job in jobs if is_finished(config, job.arguments["method"], run / job.name)
    ]
    for name in done:
        check_scans(run / name, manifest)
        on_event({"job": name, "event": "unit-done", "before": True})
    return [job for job in jobs if job.name not in done]


def check_scans(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a finished unit of other slices than the run's: scores are compared in pairs.

    Raises
    ------
    FedM2CTError
        When the unit's test slices are of other patients, or not as many of each in the same order,
        or when it was trained on other slices. Older units do not say on which.
    """
    result = stored_result(folder)
    others = {
        "scored": _other_tests(result, manifest),
        "trained": _other_training(result, manifest),
    }
    for how, other in others.items():
        if other:
            raise FedM2CTError(
                f"{folder}: was {how} on other {other}; give the scans that it was {how} on, or "
                "choose another --out folder without --restore"
            )


def _other_tests(result: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return how a unit's test slices are not the run's; nothing where they are."""
    patients = [e["patient"] for e in manifest["slices"]["test"] for _ in e["slices"]]
    for outputs in result["scores"].values():
        if outputs[""]["patients"] != patients:
            other = sorted(set(outputs[""]["patients"]) ^ set(patients))
            what = f"{', '.join(other)}: on one side only" if other else "of the same patients"
            kind = "patients" if other else "slices"
            return f"test {kind} than the scans given hold ({what})"
    return ""


def _other_training(result: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return that a unit's training slices are not the run's; nothing where they may be."""
    unit, run = result.get("trained_on"), manifest.get("trained_on")
    alike = unit is None or run is None or unit == run
    return "" if alike else "slices than the scans given hold, though under the same paths"


@contextmanager
def slices_on_disk(cohort: Cohort, folder: Path) -> Iterator[Path]:
    """Keep the run's slices in a folder for as long as workers need them."""
    try:
        store_cohort(cohort, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unfinished(run: Path) -> None:
    """Remove the temporary files that a killed process has left."""
    for leftover in run.rglob(f"*{TEMPORARY_MARK}*"):
        leftover.unlink(missing_ok=True)


def conclude(config: RunConfig, run: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write ``metrics.jsonl``, ``summary.json`` and ``report.html`` of a finished run."""
    history = history_of(config, run)
    heads = audit_heads(config, run)
    summary = {**summarise(config, run), "costs": costs(history), "audit": heads}
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    write_atomically(run / "metrics.jsonl", lines.encode())
    write_atomically(run / "summary.json", json.dumps(summary, indent=1).encode())
    arrays = shown_arrays(config, run)
    shown = {**summary, "lesions": read_lesions(config, run)}
    write_report(run, shown, manifest, history, arrays, run / "report.html")
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
