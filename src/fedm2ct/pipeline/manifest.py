"""The manifest of a run: what it was, on what, with which versions, so that it can be repeated."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fedm2ct
from fedm2ct.config import ConfigError, RunConfig, parse_config
from fedm2ct.data.scans import Scan
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.physics.protocols import protocol_to_dict
from fedm2ct.pipeline.prepare import Cohort

NOTES = [
    "Acquisitions are simulated: objects on a grid twice as fine as the reconstruction's and two "
    "rays a detector bin, so that projector and reconstruction do not share a grid.",
]
_OF_TESTS = {"test", "window", "evaluation"}
_PACKAGES = ("torch", "numpy", "scipy", "numba", "flwr", "SimpleITK", "safetensors")


def config_fingerprint(config: RunConfig) -> str:
    """Hash what training depends on: everything but the lists of methods and of seeds."""
    relevant = config.model_dump(mode="json", exclude=_OF_TESTS | {"methods", "seeds"})
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def test_fingerprint(config: RunConfig) -> str:
    """Hash what a trained method's scores depend on beside its training."""
    relevant = config.model_dump(mode="json", include=_OF_TESTS)
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


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


def scan_hash(scan: Scan) -> str:
    """Return a hash of a scan's voxels."""
    return hashlib.sha256(scan.hu.tobytes()).hexdigest()


def write_manifest(config: RunConfig, cohort: Cohort, run: Path) -> dict[str, Any]:
    """Write ``manifest.json`` and return it; a run that goes on keeps its date.

    Raises
    ------
    FedM2CTError
        When a scan is not the one that the run in the folder was started with.
    """
    roles = cohort.split.roles
    manifest: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": config.name,
        "config": config.model_dump(mode="json"),
        "fingerprint": config_fingerprint(config),
        "seeds": list(config.seeds),
        "versions": versions(),
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "git_commit": git_commit(),
        "protocols": {n: protocol_to_dict(p) for n, p in cohort.protocols.items()},
        "patients": {role: sorted({s.patient for s in roles[role]}) for role in roles},
        "slices": {
            role: [{"scan": s.scan, "slices": s.slices, "held_out": s.held_out} for s in selections]
            for role, selections in roles.items()
        },
        "notes": NOTES,
        "scans": {
            name: {
                "sha256": scan_hash(scan),
                "spacing_zyx_mm": scan.spacing_zyx_mm,
                "provenance": scan.provenance,
            }
            for name, scan in cohort.scans.items()
        },
    }
    if (run / "manifest.json").exists():
        before = read_manifest(run)
        _refuse_changed_scans(before, manifest, run)
        manifest["created"] = before["created"]
    write_atomically(run / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _refuse_changed_scans(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    for name, scan in now["scans"].items():
        known = before["scans"].get(name)
        if known is not None and known["sha256"] != scan["sha256"]:
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
    return manifest


def chosen_seed(config: RunConfig, seed: int | None) -> int:
    """Return the seed whose models are wanted: the run's first by default.

    Raises
    ------
    FedM2CTError
        When the run has no such seed.
    """
    if seed is None:
        return config.seeds[0]
    if seed not in config.seeds:
        known = ", ".join(map(str, config.seeds))
        raise FedM2CTError(f"the run has no seed {seed}; it has {known}")
    return seed


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
