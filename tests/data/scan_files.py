"""One small, asymmetric scan, and writers of it in every format."""

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SPACING_ZYX_MM = (2.5, 0.8, 0.9)
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def volume() -> np.ndarray:
    """HU (z, row, column) without any symmetry: 5 x 24 x 32, int16."""
    rng = np.random.default_rng(7)
    hu = np.full((5, 24, 32), -1000, dtype=np.int16)
    hu[:, 3:20, 5:30] = 40
    hu[:, 5:9, 7:12] = 900
    hu[3:, 12:16, 20:25] = -800
    return hu + rng.integers(-20, 20, hu.shape, dtype=np.int16)


def image(hu: np.ndarray, spacing: tuple[float, float, float] = SPACING_ZYX_MM) -> sitk.Image:
    """LPS image of HU (z, row, column)."""
    made = sitk.GetImageFromArray(hu)
    made.SetSpacing(spacing[::-1])
    made.SetOrigin((-10.0, -20.0, 30.0))
    return made


def write_oriented(path: Path, hu: np.ndarray, code: str) -> Path:
    """Write with the axes stored in another order or direction, such as RAS."""
    sitk.WriteImage(sitk.DICOMOrient(image(hu), code), str(path))
    return path


def write_dicom(
    folder: Path,
    hu: np.ndarray,
    *,
    series: str | None = None,
    reverse: bool = True,
    **fields: object,
) -> list[Path]:
    """Write a CT series, by default with file names against the order of positions."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid() if series is None else series
    paths = []
    for k, plane in enumerate(hu):
        index = len(hu) - 1 - k if reverse else k
        path = folder / f"slice-{uid[-6:]}-{index:03d}.dcm"
        header = _header(k, plane, uid)
        for name, value in fields.items():
            if value is None:
                delattr(header, name)
            else:
                setattr(header, name, value)
        header.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def edit(path: Path, **fields: object) -> None:
    """Change fields of a DICOM file."""
    header = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(header, name, value)
    header.save_as(path, enforce_file_format=True)


def _header(k: int, plane: np.ndarray, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = CT_IMAGE, meta.MediaStorageSOPInstanceUID
    d.Modality, d.PatientID, d.PatientName = "CT", "1234", "Doe^Jane"
    d.SeriesInstanceUID, d.InstanceNumber = series, 5 - k
    d.Rows, d.Columns = plane.shape
    d.PixelSpacing = list(SPACING_ZYX_MM[1:])
    d.SliceThickness = SPACING_ZYX_MM[0]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.ImagePositionPatient = [-10.0, -20.0, 30.0 + k * SPACING_ZYX_MM[0]]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 1, -1024, "HU"
    d.KVP, d.ConvolutionKernel = 120, ["Br38f", "3"]
    d.PixelData = (plane.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    return d
