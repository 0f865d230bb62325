"""A run's slices on disk for its workers, so that every scan is read and checked only once.

The folder lives as long as the run works: it is written anew at each start and then removed.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import RunConfig
from fedm2ct.data.scans import Scan
from fedm2ct.data.sites import META, Selection, Split
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.prepare import Cohort, site_protocols, unpaired_sites

_INDEX = "cohort.json"


def used_slices(cohort: Cohort, scan: str) -> list[int]:
    """Return the indices of a scan's slices that any role uses, in increasing order."""
    selections = [s for role in cohort.split.roles.values() for s in role if s.scan == scan]
    return sorted({index for s in selections for index in (*s.slices, *s.held_out)})


def store_cohort(cohort: Cohort, folder: Path) -> None:
    """Write the slices that a run uses, and who uses which.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written to.
    """
    used = {name: used_slices(cohort, name) for name in cohort.scans}
    place = {name: {index: k for k, index in enumerate(used[name])} for name in used}
    for number, (name, scan) in enumerate(cohort.scans.items()):
        buffer = io.BytesIO()
        np.save(buffer, scan.hu[used[name]], allow_pickle=False)
        write_atomically(folder / f"{number}.npy", buffer.getvalue())
    index = {
        "scans": [
            {
                "key": name,
                "name": scan.name,
                "patient": scan.patient,
                "spacing": scan.spacing_zyx_mm,
            }
            for name, scan in cohort.scans.items()
        ],
        "roles": {
            role: [
                {
                    "scan": s.scan,
                    "patient": s.patient,
                    "slices": [place[s.scan][i] for i in s.slices],
                    "held_out": [place[s.scan][i] for i in s.held_out],
                }
                for s in selections
            ]
            for role, selections in cohort.split.roles.items()
        },
    }
    write_atomically(folder / _INDEX, json.dumps(index).encode())


def stored_cohort(config: RunConfig, folder: Path) -> Cohort:
    """Return what `store_cohort` wrote; slices are counted among those stored.

    The stored cohort may be of several configurations: public scans come back only where this one
    reads them, as of `read_cohort`.
    """
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    scans: dict[str, Scan] = {}
    for number, entry in enumerate(index["scans"]):
        hu = np.load(folder / f"{number}.npy", allow_pickle=False)
        spacing = tuple(entry["spacing"])
        scans[entry["key"]] = Scan(hu, spacing, entry["name"], entry["patient"])
    roles = {
        role: tuple(_selection(entry) for entry in entries)
        for role, entries in index["roles"].items()
        if role != META or config.meta.source == "simulated"
    }
    return Cohort(scans, Split(roles), site_protocols(config), unpaired_sites(config))


def _selection(entry: dict[str, Any]) -> Selection:
    slices, held_out = tuple(entry["slices"]), tuple(entry["held_out"])
    return Selection(entry["scan"], entry["patient"], slices, held_out)
