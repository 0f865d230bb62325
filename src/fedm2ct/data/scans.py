"""A scan: a CT volume in HU with its spacing, its patient and where it came from.

Axes are the patient's: columns run from the patient's right to the left (radiological view),
rows from anterior (row 0, top) to posterior, slices from inferior to superior. An ``.npz`` file
carries no orientation and is taken to be in this order already.
Values are HU clipped to [-1024, 3071]; padding outside the scanner's field of view is -1024.
"""

import os
import zipfile
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from fedm2ct.data.hounsfield import HounsfieldArray, Numbers, ScanError, clean_hu

__all__ = ["Scan", "ScanError", "read_scan"]

_VOLUME_FILES = (".nii", ".nii.gz", ".nrrd")
_UNZIPPING = (zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Scan:
    """A CT volume.

    Attributes
    ----------
    hu
        HU, shape ``(z, row, column)``, ``int16`` or ``float32``.
    spacing_zyx_mm
        Distance of slices, rows and columns in mm.
    name
        What the user calls it.
    patient
        Pseudonym, the same for scans of one patient as far as the files tell.
    provenance
        Where it came from and how it was acquired; no field identifies a person.
    """

    hu: HounsfieldArray
    spacing_zyx_mm: tuple[float, float, float]
    name: str
    patient: str
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays that are not volumes and impossible spacings."""
        if self.hu.ndim != 3 or 0 in self.hu.shape:
            raise ScanError(
                f"{self.name}: hu has shape {self.hu.shape}, expected (z, row, column)."
            )
        spacing = np.asarray(self.spacing_zyx_mm, dtype=np.float64)
        if spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
            raise ScanError(
                f"{self.name}: spacing_zyx_mm is {self.spacing_zyx_mm}, expected three positive mm."
            )


def read_scan(path: str | os.PathLike[str], name: str | None = None) -> Scan:
    """Read a CT scan from a DICOM folder or file, ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.npz``.

    Parameters
    ----------
    path
        File or folder. A folder with several DICOM series takes ``FOLDER#SERIES_UID``.
        An ``.npz`` file holds ``hu`` (z, row, column) and ``spacing_zyx_mm`` (3 numbers).
    name
        Name of the scan; the file's or folder's by default.

    Returns
    -------
    The scan in patient axes and HU (see the module).

    Raises
    ------
    ScanError
        If it is missing, damaged, of an unknown format, or not CT in HU.
    """
    place, series = _split_series(os.fspath(path))
    if not place.exists():
        raise ScanError(f"{place}: no such file or folder; check the path of the scan.")
    if not os.access(place, os.R_OK):
        raise ScanError(f"{place}: may not be read; check its permissions.")
    label = name if name is not None else _stem(place)
    lower = place.name.lower()
    if place.is_file() and lower.endswith(_VOLUME_FILES):
        return _read_volume(place, label)
    if place.is_file() and lower.endswith(".npz"):
        values, spacing = _read_npz(place)
        return _scan(clean_hu(values, str(place)), spacing, label, "", "npz", place, {})
    if place.is_dir() or lower.endswith((".dcm", ".ima")) or _is_dicom(place):
        return _read_dicom(place, series, label)
    raise ScanError(
        f"{place}: unknown format; give a DICOM folder, .dcm, .nii, .nii.gz, .nrrd or .npz."
    )


def _split_series(path: str) -> tuple[Path, str | None]:
    folder, mark, series = path.rpartition("#")
    if mark and not Path(path).exists():
        return Path(folder), series
    return Path(path), None


def _stem(path: Path) -> str:
    name = path.resolve().name
    for suffix in (*_VOLUME_FILES[::-1], ".nii.gz", ".npz", ".dcm", ".ima"):
        if path.is_file() and name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


# The readers' libraries take long to import, and most processes read other formats or none.


def _read_volume(path: Path, name: str) -> Scan:
    from fedm2ct.data.itk import read_volume_file, to_patient_axes

    values, spacing = to_patient_axes(read_volume_file(path), str(path))
    kind = "NRRD" if path.name.lower().endswith(".nrrd") else "NIfTI"
    return _scan(clean_hu(values, str(path)), spacing, name, "", kind, path, {})


def _is_dicom(path: Path) -> bool:
    from fedm2ct.data.dicom_series import is_dicom

    return is_dicom(path)


def _read_dicom(path: Path, series: str | None, name: str) -> Scan:
    from fedm2ct.data.dicom_series import read_series
    from fedm2ct.data.itk import to_patient_axes

    read = read_series(path, series)
    values, spacing = to_patient_axes(read.volume, str(path))
    return _scan(
        clean_hu(values, str(path)), spacing, name, read.patient, "DICOM", path, read.provenance
    )


def _read_npz(path: Path) -> tuple[Numbers, tuple[float, float, float]]:
    """Read ``hu`` and ``spacing_zyx_mm``; never unpickles."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in ("hu", "spacing_zyx_mm") if key not in file]
            if missing:
                raise ScanError(
                    f"{path}: lacks {' and '.join(missing)}; an .npz scan holds hu "
                    "(z, row, column) and spacing_zyx_mm (3 numbers)."
                )
            hu, spacing = file["hu"], file["spacing_zyx_mm"]
    except (OSError, EOFError, ValueError, TypeError, AttributeError, *_UNZIPPING) as error:
        raise ScanError(
            f"{path}: is damaged, truncated or holds objects instead of numbers; "
            "write it again with numpy.savez."
        ) from error
    if hu.ndim != 3:
        raise ScanError(f"{path}: hu has shape {hu.shape}, expected (z, row, column).")
    if spacing.shape != (3,) or spacing.dtype.kind not in "iuf":
        raise ScanError(f"{path}: spacing_zyx_mm must be 3 numbers: mm between slices, rows, ...")
    z, y, x = (float(value) for value in spacing)
    return hu, (z, y, x)


def _scan(
    hu: HounsfieldArray,
    spacing: tuple[float, float, float],
    name: str,
    patient: str,
    kind: str,
    path: Path,
    provenance: dict[str, str],
) -> Scan:
    digest = sha256(np.ascontiguousarray(hu).tobytes()).hexdigest()
    origin = {"format": kind, "file": path.name, "hu_sha256": digest, **provenance}
    return Scan(hu, spacing, name, patient or f"scan-{digest[:12]}", origin)
