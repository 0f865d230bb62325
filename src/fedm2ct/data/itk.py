"""What SimpleITK reads, as plain arrays; NIfTI and NRRD files; the turn to patient axes."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from fedm2ct.data.hounsfield import Numbers, ScanError

MINIMUM_COSINE: Final = 0.966
"""Axes more than 15 degrees (cosine 0.966) off the patient's are refused: slices not axial."""

_sitk: Final[Any] = SimpleITK  # it ships no types


@dataclass(frozen=True)
class Volume:
    """Voxels as stored, and how they lie in the patient.

    Attributes
    ----------
    values
        Shape ``(a, b, c)``.
    spacing_mm
        Distance of voxels along each axis of ``values``.
    directions
        Unit vector of each axis in patient coordinates (left, posterior, superior), one a row.
    """

    values: Numbers
    spacing_mm: tuple[float, float, float]
    directions: NDArray[np.float64]


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's C++ warnings off the console; errors still arrive as exceptions."""
    before = _sitk.ProcessObject.GetGlobalWarningDisplay()
    _sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        _sitk.ProcessObject.SetGlobalWarningDisplay(before)


def read_volume_file(path: Path) -> Volume:
    """Read a ``.nii``, ``.nii.gz`` or ``.nrrd`` file as a scalar 3-D volume.

    Raises
    ------
    ScanError
        If the file is truncated, not readable, or not one scalar 3-D volume.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_nifti_complete(path)
    else:
        _check_nrrd_intact(path)
    try:
        with quiet_itk():
            image = _sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ScanError(
            f"{path}: cannot be read, it is damaged or truncated; copy it again from its source."
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{path}: has colour or vector pixels, expected one value (HU) a voxel.")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        size = " x ".join(map(str, image.GetSize()))
        raise ScanError(f"{path}: is {size}, expected one 3-D volume (columns x rows x slices).")
    across, down, up = (float(s) for s in image.GetSpacing())
    directions = np.asarray(image.GetDirection(), dtype=np.float64).reshape(3, 3).T[::-1]
    return Volume(_sitk.GetArrayFromImage(image), (up, down, across), directions)


def read_dicom_pixels(path: Path) -> NDArray[np.float32]:
    """Read one DICOM file's pixels, rescaled to its output units, shape ``(row, column)``.

    Raises
    ------
    ScanError
        If they cannot be decoded.
    """
    try:
        with quiet_itk():
            image = _sitk.ReadImage(str(path), SimpleITK.sitkFloat32)
    except RuntimeError as error:
        raise ScanError(
            f"{path}: its pixels cannot be decoded, the file is damaged or truncated; "
            "copy it again from its source."
        ) from error
    pixels: NDArray[np.float32] = _sitk.GetArrayFromImage(image)
    return pixels.reshape(pixels.shape[-2:])


def to_patient_axes(volume: Volume, where: str) -> tuple[Numbers, tuple[float, float, float]]:
    """Turn a volume to patient axes, by swapping and flipping axes only.

    Returns
    -------
    values
        Shape ``(z, row, column)``: slices from inferior to superior, rows from anterior to
        posterior, columns from the patient's right to the left.
    spacing_zyx_mm
        Distance of voxels along them.

    Raises
    ------
    ScanError
        If the volume's axes are more than 15 degrees off the patient's.
    """
    wanted = volume.directions[:, ::-1].T  # rows: superior, posterior, left
    source = np.abs(wanted).argmax(axis=1)
    cosines = wanted[np.arange(3), source]
    if len(set(source.tolist())) < 3 or np.abs(cosines).min() < MINIMUM_COSINE:
        raise ScanError(
            f"{where}: its axes are more than 15 degrees off the patient's; "
            "resample it to axial slices first."
        )
    turned = volume.values.transpose(source.tolist())
    turned = turned[tuple(slice(None, None, 1 if c > 0 else -1) for c in cosines)]
    up, down, across = (volume.spacing_mm[axis] for axis in source)
    return np.ascontiguousarray(turned), (up, down, across)


def _check_nifti_complete(path: Path) -> None:
    """Refuse a truncated NIfTI file: SimpleITK would fill it up with anything, in silence."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as opened:
            stream = cast(BinaryIO, opened)
            expected = _nifti_length(stream.read(540))
            length = 540
            while block := stream.read(1 << 22):
                length += len(block)
    except (OSError, EOFError, struct.error, ValueError, zlib.error) as error:
        raise ScanError(
            f"{path}: is damaged, truncated or not a NIfTI file; copy it again from its source."
        ) from error
    if length < expected:
        raise ScanError(
            f"{path}: is truncated ({length} of {expected} bytes); copy it again from its source."
        )


def _check_nrrd_intact(path: Path) -> None:
    """Refuse a damaged NRRD file with compressed data: SimpleITK does not look at the checksum."""
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as opened:
            while line := opened.readline().strip():
                name, _, value = line.decode("latin-1").partition(": ")
                fields[name.lower()] = value.strip().lower()
            apart = {"data file", "datafile"} & set(fields)
            if fields.get("encoding") not in ("gzip", "gz") or apart:
                return
            for _ in range(int(fields.get("line skip") or fields.get("lineskip") or 0)):
                opened.readline()
            with gzip.open(opened) as stream:
                while stream.read(1 << 22):
                    pass
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(
            f"{path}: its data are damaged or truncated; copy it again from its source."
        ) from error


def _nifti_length(header: bytes) -> int:
    """Length in bytes that a NIfTI-1 or NIfTI-2 header announces for a single file."""
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", header, 0)
        if size == 348:
            dims = struct.unpack_from(order + "8h", header, 40)
            (bits,) = struct.unpack_from(order + "h", header, 72)
            (offset,) = struct.unpack_from(order + "f", header, 108)
        elif size == 540:
            dims = struct.unpack_from(order + "8q", header, 16)
            (bits,) = struct.unpack_from(order + "h", header, 14)
            (offset,) = struct.unpack_from(order + "q", header, 168)
        else:
            continue
        used = [max(int(d), 1) for d in dims[1 : 1 + max(0, min(int(dims[0]), 7))]]
        return int(offset) + math.prod(used) * int(bits) // 8
    raise ValueError("no NIfTI header")
