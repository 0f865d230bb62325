"""A finished run on new scans: simulate each site's acquisition, reconstruct, score."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.data.scans import Scan
from fedm2ct.data.sites import pick_slices
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.physics.protocols import protocol_from_dict
from fedm2ct.pipeline.assess import HuArray, assess, to_hu
from fedm2ct.pipeline.manifest import config_of, read_manifest, scan_hash
from fedm2ct.pipeline.prepare import acquire_tests, load_any
from fedm2ct.pipeline.summary import summarise_scores
from fedm2ct.pipeline.unit import reconstructors_of


def evaluate_run(
    run: Path,
    scan_names: Sequence[str],
    out: Path,
    *,
    sites: Sequence[str],
    slices: int | None,
    seed: int | None,
    allow_seen: bool,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate every method of a run on scans; write ``metrics.json`` and ``arrays.npz``.

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
        Takes a line for each site done.

    Raises
    ------
    FedM2CTError
        When the run is not finished, a site is not known, or a scan was part of the training.
    """
    config, manifest = config_of(run), read_manifest(run)
    seed = config.seeds[0] if seed is None else seed
    chosen = _chosen(list(manifest["protocols"]), sites)
    protocols = {name: protocol_from_dict(manifest["protocols"][name]) for name in chosen}
    scans = [load_any(name) for name in scan_names]
    if not allow_seen:
        _refuse_seen(scans, manifest)
    tests = [(scan, pick_slices(scan, slices or len(scan.hu))) for scan in scans]
    scores: dict[str, dict[str, Any]] = {method: {} for method in config.methods}
    arrays: dict[str, HuArray] = {}
    for site, protocol in protocols.items():
        data, patients = acquire_tests(tests, protocol, site, seed)
        arrays[f"truth_hu/{site}"] = to_hu(data.truth)
        for method in config.methods:
            reconstructors = reconstructors_of(protocols, run, method, seed, site)
            images, scored = assess(reconstructors, data, patients, config.window)
            arrays[f"{method}/{site}"] = images[""]
            scores[method][site] = {name: asdict(s) for name, s in scored.items()}
        progress(f"site {site}: {len(patients)} slices reconstructed with {len(scores)} methods")
    summary = summarise_scores(config, {method: [by_site] for method, by_site in scores.items()})
    summary.update(seed=seed, scans=[_description(s, i) for s, i in tests])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # stub forbids **dict
    write_atomically(out / "arrays.npz", buffer.getvalue())
    write_atomically(out / "metrics.json", json.dumps(summary, indent=1).encode())
    return summary


def _chosen(known: list[str], wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in known:
            raise FedM2CTError(f"the run has no site {name!r}; it has {', '.join(known)}")
    return list(wanted) or known


def _refuse_seen(scans: Sequence[Scan], manifest: dict[str, Any]) -> None:
    """Refuse scans of training patients, by the patient's pseudonym and by the voxels."""
    roles = {role: set(p) for role, p in manifest["patients"].items() if role != "test"}
    used = {
        entry["scan"]: role
        for role, entries in manifest["slices"].items()
        if role != "test"
        for entry in entries
    }
    hashes = {manifest["scans"][name]["sha256"]: role for name, role in used.items()}
    for scan in scans:
        role = hashes.get(scan_hash(scan))
        role = role or next((r for r, patients in roles.items() if scan.patient in patients), None)
        if role is not None:
            raise FedM2CTError(
                f"{scan.name}: its patient was used for {role!r} in this run, so the figures "
                "would flatter; choose another scan, or add --allow-seen"
            )


def _description(scan: Scan, slices: Sequence[int]) -> dict[str, Any]:
    return {"name": scan.name, "patient": scan.patient, "slices": list(slices)}
