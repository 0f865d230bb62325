"""One DICOM CT series from a folder: chosen, checked, sorted by position, in HU.

Headers are read with pydicom and pixels with SimpleITK (GDCM: JPEG, JPEG-LS, JPEG 2000 and RLE
included). Files are grouped by Series Instance UID or, where de-identification removed it, by
what is left (study, frame of reference, series number); slices are sorted by their position
along the slice normal, never by file name or instance number.

A folder with a missing slice (irregular gaps) or with two slices at one place is refused: the
volume would be wrong. A tilted gantry is accepted and noted in the provenance: the project
works slice by slice, and each tilted slice is a true cross-section.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from fedm2ct.data.hounsfield import PADDING_HU, ScanError
from fedm2ct.data.itk import Volume, read_dicom_pixels
from fedm2ct.units import HU_MAX

_KEPT: Final = (
    "Manufacturer",
    "ManufacturerModelName",
    "KVP",
    "SliceThickness",
    "ConvolutionKernel",
    "BodyPartExamined",
    "XRayTubeCurrent",
    "Exposure",
    "ReconstructionDiameter",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "GantryDetectorTilt",
)
"""Header fields copied to the provenance: none of them identifies a person."""

_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
"""SOP Class UID of a CT image."""

_Header = tuple[Path, pydicom.Dataset]


@dataclass(frozen=True)
class Series:
    """A series as read: its volume in HU (padding at -2000), patient and provenance."""

    volume: Volume
    patient: str
    provenance: dict[str, str]


def read_series(path: Path, series: str | None = None) -> Series:
    """Read a folder with one CT series, or a single DICOM file as one slice.

    Parameters
    ----------
    path
        Folder (not searched recursively) or file.
    series
        Series Instance UID to take where the folder holds several.

    Raises
    ------
    ScanError
        Empty folder, several series, not CT in HU, damaged file, missing or doubled slice.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy but harmless headers
        try:
            return _read(path, series)
        except (ValueError, TypeError, AttributeError) as error:
            raise ScanError(
                f"{path}: a DICOM header field cannot be understood ({error}); "
                "export the series again."
            ) from error


def _read(path: Path, series: str | None) -> Series:
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    headers = _choose([h for h in map(_header, files) if h is not None], path, series)
    for file, header in headers:
        _check_ct(file, header)
    axes = _axes(headers, path)
    headers = sorted(headers, key=lambda h: float(axes[2] @ _position(h)))
    step, tilt = _slice_step(headers, axes[2], path)
    down, across = (float(v) for v in headers[0][1].PixelSpacing)
    provenance = {k: _text(v) for k in _KEPT if (v := headers[0][1].get(k)) not in (None, "")}
    if tilt > 0.1:
        provenance["gantry_tilt_deg"] = f"{tilt:.1f}"
    values = np.stack([_pixels(file, header) for file, header in headers])
    # array axes: slice, row (moves along a column), column (moves along a row)
    volume = Volume(values, (step, down, across), axes[::-1])
    return Series(volume, _patient(headers[0][1]), provenance)


def is_dicom(file: Path) -> bool:
    """Tell whether a file carries DICOM's mark, whatever its name."""
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _header(file: Path) -> _Header | None:
    """Read a header; ``None`` for files that are not DICOM images (notes, DICOMDIR)."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
    except InvalidDicomError:
        if file.suffix.lower() in (".dcm", ".ima") or file.stat().st_size == 0:
            raise ScanError(f"{file}: is empty, truncated or not DICOM; copy it again.") from None
        return None
    except Exception as error:  # pydicom raises many kinds on damaged headers
        raise ScanError(f"{file}: its DICOM header is damaged ({error}); copy it again.") from error
    if "Rows" in header:
        return file, header
    if header.get("Modality") == "CT" or header.file_meta.get("MediaStorageSOPClassUID") == _CT:
        raise ScanError(f"{file}: ends before its pixels, it is truncated; copy it again.")
    return None


def _choose(headers: Sequence[_Header], path: Path, series: str | None) -> list[_Header]:
    groups: dict[tuple[str, ...], list[_Header]] = defaultdict(list)
    fields = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "SeriesDescription")
    for file, header in headers:
        uid = str(header.get("SeriesInstanceUID") or "")
        groups[(uid,) if uid else tuple(str(header.get(f) or "") for f in fields)].append(
            (file, header)
        )
    if series is not None:
        groups = {key: group for key, group in groups.items() if key[0] == series}
    if not groups:
        what = f"series {series}" if series else "DICOM image"
        raise ScanError(f"{path}: holds no {what}; give the folder that holds the slices.")
    if len(groups) > 1:
        found = "; ".join(
            f"{' '.join(key)} ({group[0][1].get('Modality', '?')}, {len(group)} images)"
            for key, group in sorted(groups.items())
        )
        raise ScanError(
            f"{path}: holds {len(groups)} series, choose one by adding '#' and its UID to the "
            f"path, or move it to a folder of its own: {found}."
        )
    return next(iter(groups.values()))


def _check_ct(file: Path, header: pydicom.Dataset) -> None:
    modality, units = header.get("Modality"), header.get("RescaleType")
    if modality != "CT":
        raise ScanError(f"{file}: its Modality is {modality or 'missing'}, expected CT.")
    if units not in (None, "", "HU"):
        raise ScanError(f"{file}: its Rescale Type is {units}, expected HU.")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ScanError(f"{file}: is a multi-frame object; convert it to NIfTI or single frames.")
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise ScanError(f"{file}: is a localizer (scout) image, not a slice; move it elsewhere.")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise ScanError(f"{file}: is a colour image, expected one value (HU) a pixel.")
    for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not header.get(field):
            raise ScanError(f"{file}: has no {field}; export the series again with its geometry.")
    for field in ("RescaleSlope", "RescaleIntercept"):
        if header.get(field) in (None, ""):
            raise ScanError(
                f"{file}: has no {field}, so its HU are not known; export the series again with it."
            )


def _position(header: _Header) -> NDArray[np.float64]:
    return np.asarray(header[1].ImagePositionPatient, dtype=np.float64)


def _axes(headers: Sequence[_Header], path: Path) -> NDArray[np.float64]:
    """Return unit vectors along a row, along a column and normal to the slices, ``(3, 3)``."""
    first = headers[0][1]
    along = np.asarray(first.ImageOrientationPatient, dtype=np.float64)
    for file, header in headers:
        same = np.allclose(np.asarray(header.ImageOrientationPatient, float), along, atol=1e-3)
        same &= np.allclose(list(header.PixelSpacing), list(first.PixelSpacing), rtol=1e-4)
        if not (same and (header.Rows, header.Columns) == (first.Rows, first.Columns)):
            raise ScanError(
                f"{path}: {file.name} has another size, spacing or orientation than the rest; "
                "move the images that do not belong to the series elsewhere."
            )
    return np.stack([along[:3], along[3:], np.cross(along[:3], along[3:])])


def _slice_step(
    headers: Sequence[_Header], normal: NDArray[np.float64], path: Path
) -> tuple[float, float]:
    """Distance of slices along their normal in mm, and the stack's tilt in degrees."""
    if len(headers) == 1:
        return float(headers[0][1].get("SliceThickness") or 1.0), 0.0
    moves = np.diff(np.stack([_position(h) for h in headers]), axis=0)
    steps = moves @ normal
    typical = float(np.median(steps))
    for step, ((file, _), (after, _)) in zip(steps, pairwise(headers), strict=True):
        if step < 0.01:
            raise ScanError(
                f"{path}: {file.name} and {after.name} lie at the same place; keep one of them."
            )
        if abs(step - typical) > 0.1 * typical:
            raise ScanError(
                f"{path}: the slices are irregular, {step:.2f} mm between {file.name} and "
                f"{after.name} but {typical:.2f} mm elsewhere; export the whole series again."
            )
    whole = moves.sum(axis=0)
    cosine = abs(float(whole @ normal)) / float(np.linalg.norm(whole))
    return float(steps.mean()), math.degrees(math.acos(min(1.0, cosine)))


def _pixels(file: Path, header: pydicom.Dataset) -> NDArray[np.float32]:
    """Read HU of one slice, shape ``(row, column)``.

    Pixels outside the field of view (Pixel Padding Value) are set to -2000, unless the value
    is an HU that a body can have.
    """
    hu = read_dicom_pixels(file)
    value = header.get("PixelPaddingValue")
    if value is not None:
        slope, zero = float(header.RescaleSlope), float(header.RescaleIntercept)
        limit = header.get("PixelPaddingRangeLimit", value)
        low, high = sorted(slope * float(v) + zero for v in (value, limit))
        if high < -1000 or low > HU_MAX:
            hu[(hu >= low - 0.5) & (hu <= high + 0.5)] = PADDING_HU
    return hu


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _patient(header: pydicom.Dataset) -> str:
    """Pseudonym of the patient: a hash, so that no identity reaches logs; '' if unknown."""
    identity = str(header.get("PatientID") or "")
    if not identity:
        return ""
    issuer = str(header.get("IssuerOfPatientID") or "")
    return "patient-" + sha256(f"{issuer}\0{identity}".encode()).hexdigest()[:12]
