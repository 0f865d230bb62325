"""A finished run on new scans: simulate each site's acquisition, reconstruct, score."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import RunConfig
from fedm2ct.data.scans import Scan
from fedm2ct.data.sites import TEST, pick_slices
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.perceptual import Perceptual
from fedm2ct.files import write_atomically
from fedm2ct.physics.protocols import Protocol, protocol_from_dict, warn_if_truncated
from fedm2ct.pipeline.assess import HuArray, assess, to_hu
from fedm2ct.pipeline.manifest import chosen_seed, config_of, read_manifest
from fedm2ct.pipeline.perceptual import perceptual_metrics, prepare_perceptual
from fedm2ct.pipeline.prepare import acquire_tests, load_any
from fedm2ct.pipeline.site_files import Roles, read_roles, role_of
from fedm2ct.pipeline.summary import read_result, summarise_scores
from fedm2ct.pipeline.unit import reconstructors_of

Progress = Callable[[int, int, str], None]


def evaluate_run(
    run: Path,
    scan_names: Sequence[str],
    out: Path,
    *,
    sites: Sequence[str],
    slices: int | None,
    seed: int | None,
    allow_seen: bool,
    progress: Progress,
    perceptual: bool | None = None,
) -> dict[str, Any]:
    """Evaluate every method of a run on scans; write ``metrics.json`` and ``arrays.npz``.

    The arrays are ``truth_hu/SITE`` and ``METHOD/SITE``, each HU ``(slice, row, column)`` on the
    site's grid; ``truth_hu`` is that of the first site, whose grid the others may not share.

    Parameters
    ----------
    run
        Folder of a finished run.
    scan_names
        Paths or sample names.
    out
        Folder to write.
    sites
        Names of the sites; empty: all.
    slices
        Evenly spaced slices of each scan; None: every slice that shows a body.
    seed
        The seed whose models are used; None: the run's first.
    allow_seen
        Accept scans of patients that the run has used for training.
    progress
        Takes the number of reconstructions done, their total, and what is at work.
    perceptual
        Whether to compute perceptual metrics; None: as the run's configuration says.

    Raises
    ------
    FedM2CTError
        When the run is not finished, a site or a seed is not known, a scan was part of the
        training, or `out` is a run.
    """
    config, manifest = config_of(run), read_manifest(run)
    if (out / "manifest.json").exists():
        raise FedM2CTError(f"{out}: holds a run; choose another --out folder")
    seed, methods = chosen_seed(config, run, seed)
    config = config.model_copy(update={"methods": methods})
    for method in config.methods:
        read_result(run, method, seed)
    chosen = _chosen(list(manifest["protocols"]), sites)
    protocols = {name: protocol_from_dict(manifest["protocols"][name]) for name in chosen}
    scans = [load_any(name) for name in scan_names]
    if not allow_seen:
        _refuse_seen(scans, read_roles(run, manifest))
    tests = [(scan, pick_slices(scan, slices or len(scan.hu))) for scan in scans]
    wanted = config.evaluation.perceptual if perceptual is None else perceptual
    prepare_perceptual(wanted)
    scores, arrays = _score(
        config, run, seed, protocols, tests, progress, perceptual_metrics(wanted)
    )
    summary = summarise_scores(config, {method: [by_site] for method, by_site in scores.items()})
    summary.update(seed=seed, scans=[_description(s, i) for s, i in tests])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # stub forbids **dict
    (out / "metrics.json").unlink(missing_ok=True)  # of an earlier call: not of these arrays
    write_atomically(out / "arrays.npz", buffer.getvalue())
    write_atomically(out / "metrics.json", json.dumps(summary, indent=1).encode())
    return summary


def _score(
    config: RunConfig,
    run: Path,
    seed: int,
    protocols: Mapping[str, Protocol],
    tests: Sequence[tuple[Scan, Sequence[int]]],
    progress: Progress,
    perceptual: Perceptual | None,
) -> tuple[dict[str, dict[str, Any]], dict[str, HuArray]]:
    """Return every method's scores at every site, and the images."""
    scores: dict[str, dict[str, Any]] = {method: {} for method in config.methods}
    arrays: dict[str, HuArray] = {}
    steps, total = count(1), len(protocols) * len(config.methods)
    for site, protocol in protocols.items():
        warn_if_truncated(protocol, protocol.grid.field_of_view_mm / 2)
        data, patients = acquire_tests(tests, protocol, site, seed)
        arrays[f"truth_hu/{site}"] = to_hu(data.truth)
        for method in config.methods:
            reconstructors = reconstructors_of(protocols, run, method, seed, site)
            images, scored = assess(
                reconstructors, data, protocol, patients, config.window, perceptual
            )
            arrays[f"{method}/{site}"] = images[""]
            scores[method][site] = {name: asdict(s) for name, s in scored.items()}
            progress(next(steps), total, f"site {site}, {method}")
    arrays["truth_hu"] = arrays[f"truth_hu/{next(iter(protocols))}"]
    return scores, arrays


def _chosen(known: list[str], wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in known:
            raise FedM2CTError(f"the run has no site {name!r}; it has {', '.join(known)}")
    return list(wanted) or known


def _refuse_seen(scans: Sequence[Scan], roles: Roles) -> None:
    """Refuse scans of training patients, by the patient's pseudonym and by the voxels."""
    training = {role: about for role, about in roles.items() if role != TEST}
    for scan in scans:
        if (role := role_of(scan, training)) is not None:
            raise FedM2CTError(
                f"{scan.name}: its patient was used for {role!r} in this run, so the figures "
                "would flatter; choose another scan, or add --allow-seen"
            )


def _description(scan: Scan, slices: Sequence[int]) -> dict[str, Any]:
    return {"name": scan.name, "patient": scan.patient, "slices": list(slices)}
