"""A folder of more scans: which patients it holds, and which role each of them gets.

One patient an entry, in the order of their names: a file (``.nii``, ``.nii.gz``, ``.nrrd``,
``.npz``), a folder with one such file, or a folder with a DICOM series. Other entries are passed
over.
"""

from dataclasses import dataclass
from pathlib import Path

from fedm2ct.data.dicom_series import is_dicom
from fedm2ct.errors import FedM2CTError

_FILES = (".nii", ".nii.gz", ".nrrd", ".npz")


@dataclass(frozen=True)
class Assignment:
    """Scans by role; `sites` has a list for each site, in the setting's order."""

    validation: list[str]
    test: list[str]
    sites: list[list[str]]


def patients_in(folder: Path) -> list[str]:
    """Return the paths of a folder's scans, one a patient, sorted by the entries' names.

    Raises
    ------
    FedM2CTError
        When the folder cannot be read, holds no scan, or a patient has several.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise FedM2CTError(f"{folder}: cannot be read ({error.strerror}); check --scans") from None
    found = [scan for entry in entries if (scan := _scan_of(entry)) is not None]
    if not found:
        raise FedM2CTError(
            f"{folder}: holds no scans; give each patient a file or a folder of its own"
        )
    return [str(scan) for scan in found]


def _scan_of(entry: Path) -> Path | None:
    """Return the scan of one entry, None where there is none."""
    if entry.is_file():
        return entry if entry.name.lower().endswith(_FILES) else None
    if not entry.is_dir():
        return None
    inside = sorted(path for path in entry.iterdir() if path.is_file())
    volumes = [path for path in inside if path.name.lower().endswith(_FILES)]
    if len(volumes) > 1:
        raise FedM2CTError(
            f"{entry}: holds {len(volumes)} scans; keep one, for an entry is one patient"
        )
    if volumes:
        return volumes[0]
    return entry if any(map(is_dicom, inside)) else None


def assign(patients: list[str], validation: int, test: int, sites: int) -> Assignment:
    """Give the first patients to validation, the next to the test, the rest to sites in turn."""
    training = patients[validation + test :]
    return Assignment(
        patients[:validation],
        patients[validation : validation + test],
        [training[k::sites] for k in range(sites)],
    )
