"""One unit of work: one method under one seed, from configuration to test scores.

Its folder is ``RUN/<method>/seed-<k>/``: checkpoints, the sites' private parts and models,
``metrics.jsonl`` (of a conventional method ``settings.json``), and, last of all, ``result.json``
and ``arrays.npz``: a unit that has them is finished and is not run again.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import RunConfig, parse_config
from fedm2ct.device import compute_device
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.protection import build_halves
from fedm2ct.federation.run import run_method
from fedm2ct.files import read_table, write_atomically
from fedm2ct.model.start import starts_kept_in
from fedm2ct.pipeline.assess import (
    HuArray,
    Reconstructor,
    assess,
    outputs_of,
    to_hu,
)
from fedm2ct.pipeline.cohort_files import stored_cohort
from fedm2ct.pipeline.conventional import CONVENTIONAL, choose, reconstructor_of
from fedm2ct.pipeline.fingerprints import test_fingerprint, unit_fingerprint
from fedm2ct.pipeline.model_files import load_model, save_model
from fedm2ct.pipeline.notices import warnings_to
from fedm2ct.pipeline.perceptual import perceptual_metrics
from fedm2ct.pipeline.prepare import Cohort, acquire_settings, acquire_tests, site_tasks
from fedm2ct.pipeline.provenance import origin

Emit = Callable[[dict[str, Any]], None]
SHOWN_SLICES = 3
_SETTINGS = "settings.json"


def unit_folder(run: Path, method: str, seed: int) -> Path:
    """Return the folder of a unit of work."""
    return run / method / f"seed-{seed}"


def seeds_in(run: Path, method: str) -> list[int]:
    """Return the seeds of which a method has a folder; one that was put aside does not count."""
    names = [folder.name for folder in (run / method).glob("seed-*")]
    found = [re.fullmatch(r"seed-(0|-?[1-9]\d*)", name) for name in names]
    return sorted(int(match[1]) for match in found if match)


def model_path(run: Path, method: str, seed: int, site: str) -> Path:
    """Return the file of a site's model."""
    return unit_folder(run, method, seed) / "sites" / site / "model.safetensors"


def stored_result(folder: Path) -> dict[str, Any]:
    """Return what a unit's ``result.json`` holds; nothing where there is none."""
    return read_table(folder / "result.json")


def has_models(folder: Path) -> bool:
    """Return whether a unit is finished and has what it reconstructs with."""
    kept = any((folder / name).exists() for name in ("sites", _SETTINGS))
    return kept and bool(stored_result(folder))


def is_finished(config: RunConfig, method: str, folder: Path) -> bool:
    """Return whether a unit was trained as `config` says and scored on its test patients."""
    result = stored_result(folder)
    return bool(
        result.get("tested") == test_fingerprint(config)
        and result.get("trained") == unit_fingerprint(config, method)
    )


def run_unit(
    config: dict[str, Any],
    method: str,
    seed: int,
    run: str,
    cohort: str,
    resume: bool,
    on_event: Emit,
) -> None:
    """Train a method under a seed, or set it up, and score it on the test patients.

    Plain values in, files out, so that it can run in a process of its own. `cohort` is the folder
    of the run's slices.
    """
    parsed = parse_config(config)
    folder = unit_folder(Path(run), method, seed)
    with (
        warnings_to(lambda text: on_event({"event": "warning", "reason": text})),
        starts_kept_in(Path(cohort) / "starts"),
    ):
        slices = stored_cohort(parsed, Path(cohort))
        if method in CONVENTIONAL:
            set_up(slices, method, seed, folder)
        else:
            train(parsed, slices, method, seed, folder, resume, on_event)
        finish(parsed, slices, method, seed, Path(run))
    on_event({"event": "unit-done", "before": False})


def train(
    config: RunConfig,
    cohort: Cohort,
    method: str,
    seed: int,
    folder: Path,
    resume: bool,
    on_event: Emit,
) -> None:
    """Train a method and write every site's best model.

    Raises
    ------
    FedM2CTError
        When the training fails, or has diverged at a site.
    """
    setup = Setup(config, site_tasks(cohort, seed), seed, cohort.public(), compute_device())
    halves: Halves = build_halves(method, setup)
    run_method(
        halves.server,
        halves.clients,
        config.training.rounds,
        folder,
        resume=resume,
        seed=seed,
        fingerprint=unit_fingerprint(config, method),
        on_event=on_event,
    )
    for name, trainer in halves.trainers.items():
        path = folder / "sites" / name / "model.safetensors"
        save_model(trainer.model, trainer.chosen(), path)


def set_up(cohort: Cohort, method: str, seed: int, folder: Path) -> None:
    """Choose a conventional method's settings for every site, unless an earlier call has."""
    if read_settings(folder) is None:
        chosen = {
            site: choose(method, protocol, acquire_settings(cohort, site, seed))
            for site, protocol in cohort.protocols.items()
        }
        write_atomically(folder / _SETTINGS, json.dumps(chosen, indent=1).encode())


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return a conventional unit's settings by site; None where they are not chosen yet."""
    return read_table(folder / _SETTINGS) or None


def reconstructors_of(
    cohort_protocols: Mapping[str, Any], run: Path, method: str, seed: int, site: str
) -> dict[str, Reconstructor]:
    """Return a method's reconstructors at a site, by output ('' is the method's own).

    Raises
    ------
    FedM2CTError
        When the method has no model, or no settings, of the site.
    """
    if method in CONVENTIONAL:
        folder = unit_folder(run, method, seed)
        settings = read_settings(folder)
        if settings is None or site not in settings:
            raise FedM2CTError(
                f"{folder / _SETTINGS}: holds no settings of site {site}; "
                "run `fedm2ct train` again with --resume"
            )
        return {"": reconstructor_of(method, cohort_protocols[site], settings[site])}
    return outputs_of(load_model(model_path(run, method, seed, site)))


def finish(config: RunConfig, cohort: Cohort, method: str, seed: int, run: Path) -> None:
    """Score a trained method on the test patients and write the unit's result."""
    tests = [(cohort.scans[s.scan], s.slices) for s in cohort.split["test"]]
    scores: dict[str, dict[str, Any]] = {}
    arrays: dict[str, HuArray] = {}
    perceptual = perceptual_metrics(config.evaluation.perceptual)
    for site, protocol in cohort.protocols.items():
        data, patients = acquire_tests(tests, protocol, site, seed)
        reconstructors = reconstructors_of(cohort.protocols, run, method, seed, site)
        images, scored = assess(reconstructors, data, protocol, patients, config.window, perceptual)
        scores[site] = {output: asdict(score) for output, score in scored.items()}
        shown = np.linspace(0, len(patients) - 1, min(SHOWN_SLICES, len(patients))).round()
        arrays[f"truth_hu/{site}"] = to_hu(data.truth)[shown.astype(int)]
        arrays[f"{method}/{site}"] = images[""][shown.astype(int)]
    folder = unit_folder(run, method, seed)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # stub forbids **dict
    write_atomically(folder / "arrays.npz", buffer.getvalue())
    result: dict[str, Any] = {
        "from": origin(),
        "scores": scores,
        "tested": test_fingerprint(config),
        "trained": unit_fingerprint(config, method),
        "trained_on": cohort.trained_on(),
    }
    if method in CONVENTIONAL:
        result["settings"] = read_settings(folder)
    write_atomically(folder / "result.json", json.dumps(result).encode())
