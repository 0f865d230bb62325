"""What tells of a site's scans stays in that site's folder: ``RUN/sites/SITE/scans.json``.

Paths, patients' pseudonyms, provenance and hashes are the site's. Whatever else a run writes calls
the scans of site A ``A-scan-1``, ``A-scan-2`` in the order of the configuration, and its patients
``A-patient-1`` and so on. The test patients and the public scans of the meta-set belong to whoever
runs the federation, and are named. Of what training reads the manifest has one short hash, over all
roles together (`Cohort.trained_on`): who does not have every scan cannot tell any by it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedm2ct.config import RunConfig
from fedm2ct.data.scans import Scan
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.prepare import Cohort

Roles = Mapping[str, dict[str, Any]]
"""By role (a site, test or meta-set): ``patients``, ``slices`` and ``scans``."""


def scan_hash(scan: Scan) -> str:
    """Return a hash of a scan's voxels."""
    return hashlib.sha256(scan.hu.tobytes()).hexdigest()


def described(cohort: Cohort, role: str) -> dict[str, Any]:
    """Return the patients of a role, the slices used of their scans, and the scans."""
    selections = cohort.split.roles[role]
    return {
        "patients": sorted({s.patient for s in selections}),
        "slices": [
            {"scan": s.scan, "patient": s.patient, "slices": s.slices, "held_out": s.held_out}
            for s in selections
        ],
        "scans": {
            s.scan: {
                "sha256": scan_hash(cohort.scans[s.scan]),
                "spacing_zyx_mm": cohort.scans[s.scan].spacing_zyx_mm,
                "provenance": cohort.scans[s.scan].provenance,
            }
            for s in selections
        },
    }


def numbered_patients(site: str, about: Mapping[str, Any]) -> list[str]:
    """Return the names that a site's patients have outside of it."""
    return [f"{site}-patient-{number}" for number, _ in enumerate(about["patients"], start=1)]


def numbered_slices(site: str, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return which slices of which scan a site uses, without saying which scan that is."""
    numbers = {patient: n for n, patient in enumerate(about["patients"], start=1)}
    return [
        {
            **entry,
            "scan": f"{site}-scan-{number}",
            "patient": f"{site}-patient-{numbers[entry['patient']]}",
        }
        for number, entry in enumerate(about["slices"], start=1)
    ]


def without_site_scans(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as plain values that calls the sites' scans by number."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    for site in plain["sites"]:
        count = len(site["scans"])
        site["scans"] = [f"{site['name']}-scan-{k}" for k in range(1, count + 1)]
    return plain


def write_site(run: Path, site: str, about: Mapping[str, Any]) -> None:
    """Write what tells of a site's scans into its folder."""
    path = _path(run, site)
    data = json.dumps(about, indent=1).encode()
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data)


def read_roles(run: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of every role: from the sites' folders, and the rest of the manifest.

    Raises
    ------
    FedM2CTError
        When a site's file is missing or damaged.
    """
    scans, found = manifest["scans"], {}
    for role, entries in manifest["slices"].items():
        if all(entry["scan"] in scans for entry in entries):
            used = {entry["scan"]: scans[entry["scan"]] for entry in entries}
            patients = manifest["patients"][role]
            found[role] = {"patients": patients, "slices": entries, "scans": used}
        else:
            found[role] = _read(_path(run, role))
    return found


def _path(run: Path, site: str) -> Path:
    return run / "sites" / site / "scans.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        about["patients"], about["slices"], about["scans"]
    except (OSError, ValueError, KeyError):
        raise FedM2CTError(
            f"{path}: is missing or damaged, yet it says which scans the site has used; "
            "put it back, or choose another --out folder"
        ) from None
    return about


def role_of(scan: Scan, roles: Roles) -> str | None:
    """Return the role that a scan's voxels or its patient have in a run, None if neither has."""
    digest = scan_hash(scan)
    for role, about in roles.items():
        if any(known["sha256"] == digest for known in about["scans"].values()):
            return role
    return next((role for role, about in roles.items() if scan.patient in about["patients"]), None)
