"""The manifest of a run: what it was, on what, with which versions, so that it can be repeated."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedm2ct.config import ConfigError, RunConfig, parse_config
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.physics.protocols import protocol_to_dict
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.fingerprints import run_fingerprint
from fedm2ct.pipeline.prepare import Cohort
from fedm2ct.pipeline.provenance import git_commit, versions
from fedm2ct.pipeline.site_files import (
    Roles,
    described,
    numbered_patients,
    numbered_slices,
    read_roles,
    without_site_scans,
    write_site,
)
from fedm2ct.pipeline.unit import has_models, seeds_in, unit_folder

NOTES = [
    "Acquisitions are simulated: objects on a grid twice as fine as the reconstruction's and two "
    "rays a detector bin, so that projector and reconstruction do not share a grid.",
]


def write_manifest(config: RunConfig, cohort: Cohort, run: Path) -> dict[str, Any]:
    """Write ``manifest.json`` and return it; a run that goes on keeps its date.

    What tells of a site's scans (paths, patients, provenance, hashes) is written into that site's
    folder; the manifest calls them by number. See `fedm2ct.pipeline.site_files`.

    Raises
    ------
    FedM2CTError
        When a scan is not the one that the run in the folder was started with.
    """
    sites = [site.name for site in config.sites]
    roles = {role: described(cohort, role) for role in cohort.split.roles}
    public = {role: about for role, about in roles.items() if role not in sites}
    manifest: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": config.name,
        "config": without_site_scans(config),
        "fingerprint": run_fingerprint(config),
        "seeds": list(config.seeds),
        "versions": versions(),
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "git_commit": git_commit(),
        "protocols": {n: protocol_to_dict(p) for n, p in cohort.protocols.items()},
        "patients": {
            role: about["patients"] if role in public else numbered_patients(role, about)
            for role, about in roles.items()
        },
        "slices": {
            role: about["slices"] if role in public else numbered_slices(role, about)
            for role, about in roles.items()
        },
        "trained_on": cohort.trained_on(),
        "notes": NOTES,
        "scans": {name: scan for about in public.values() for name, scan in about["scans"].items()},
    }
    if (run / "manifest.json").exists():
        before = read_manifest(run)
        _refuse_changed_scans(read_roles(run, before), roles, run)
        manifest["created"] = before["created"]
    for site in roles.keys() & set(sites):  # a coordinator of a deployment has no site's scans
        write_site(run, site, roles[site])
    write_atomically(run / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _refuse_changed_scans(before: Roles, now: Roles, run: Path) -> None:
    known = {name: scan for about in before.values() for name, scan in about["scans"].items()}
    for about in now.values():
        for name, scan in about["scans"].items():
            if name in known and known[name]["sha256"] != scan["sha256"]:
                raise FedM2CTError(
                    f"{name}: this scan has changed since the run in {run} was started; "
                    "put it back, or choose another --out folder"
                )


def read_manifest(run: Path) -> dict[str, Any]:
    """Read a run's manifest.

    Raises
    ------
    FedM2CTError
        When the folder holds no run or the manifest is damaged.
    """
    path = run / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FedM2CTError(f"{run}: is no run (it has no manifest.json); check the path") from None
    except ValueError as error:
        raise FedM2CTError(f"{path}: is damaged ({error})") from None
    if not isinstance(manifest, dict):
        raise FedM2CTError(f"{path}: is damaged (it holds no table)")
    return manifest


def chosen_seed(config: RunConfig, run: Path, seed: int | None) -> tuple[int, list[str]]:
    """Return the seed whose models are wanted, the run's first by default, and its methods.

    The manifest has the methods and seeds of the last call. Of another seed the methods are those
    that earlier calls have finished, and have models of: restored units have none.

    Raises
    ------
    FedM2CTError
        When the run has no such seed.
    """
    if seed is None or seed in config.seeds:
        return config.seeds[0] if seed is None else seed, config.methods
    earlier = {
        number: [m for m in ALL_METHODS if has_models(unit_folder(run, m, number))]
        for number in {s for m in ALL_METHODS for s in seeds_in(run, m)}
    }
    if not earlier.get(seed):
        known = sorted({*config.seeds, *(n for n, methods in earlier.items() if methods)})
        raise FedM2CTError(f"the run has no seed {seed}; it has {', '.join(map(str, known))}")
    return seed, earlier[seed]


def config_of(run: Path) -> RunConfig:
    """Return the configuration of a run.

    Raises
    ------
    ConfigError
        When the run's configuration is not of this version.
    """
    manifest = read_manifest(run)
    if "config" not in manifest:
        raise ConfigError(f"{run / 'manifest.json'}: field 'config' is missing")
    return parse_config(manifest["config"], str(run / "manifest.json"))
