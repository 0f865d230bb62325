"""Scans that must be refused, each with the words that its error must hold."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .data.scan_files import image, volume, write_dicom


def missing(folder: Path) -> Path:
    return folder / "nowhere.nii.gz"


def truncated_nifti(folder: Path) -> Path:
    path = folder / "cut.nii.gz"
    sitk.WriteImage(image(volume()), str(path))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def truncated_npz(folder: Path) -> Path:
    path = folder / "cut.npz"
    np.savez(path, hu=volume(), spacing_zyx_mm=(1.0, 1.0, 1.0))
    path.write_bytes(path.read_bytes()[:-500])
    return path


def mixed_series(folder: Path) -> Path:
    write_dicom(folder / "mixed", volume(), series="1.2.826.1")
    write_dicom(folder / "mixed", volume() + np.int16(5), series="1.2.826.2")
    return folder / "mixed"


def not_hounsfield(folder: Path) -> Path:
    return _npz(folder, (volume() + 1000) / np.float32(2000))


def nan_pixels(folder: Path) -> Path:
    hu = volume().astype(np.float32)
    hu[2, 10, 10] = np.nan
    return _npz(folder, hu)


def _npz(folder: Path, hu: np.ndarray) -> Path:
    path = folder / "bad.npz"
    np.savez(path, hu=hu, spacing_zyx_mm=(1.0, 1.0, 1.0))
    return path


BAD_SCANS = [
    (missing, "no such scan file"),
    (truncated_nifti, "cut.nii.gz"),
    (truncated_npz, "truncated"),
    (mixed_series, "holds 2 series"),
    (not_hounsfield, "not Hounsfield units"),
    (nan_pixels, "1 voxels are NaN"),
]
