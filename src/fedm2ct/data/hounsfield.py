"""Is this CT in Hounsfield units? Refuse what is not, and bring what is into one stated range."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedm2ct.errors import FedM2CTError
from fedm2ct.units import HU_MAX, HU_MIN

Numbers = NDArray[Any]
"""Voxels of any real type, as stored in a file."""

HounsfieldArray = NDArray[np.int16] | NDArray[np.float32]

PADDING_HU: Final = -2000.0
"""Values at or below this lie outside the scanner's field of view: padding, not tissue."""

AIR_HU: Final = -200.0
TISSUE_HU: Final = -500.0
"""A CT scan of a patient has voxels below the first (air) and above the second (tissue)."""

IMPLAUSIBLE_HU: Final = 10_000.0
"""More than one voxel in a thousand above this is not CT: metal is rarer and darker."""


class ScanError(FedM2CTError):
    """A scan that cannot be read, or that is not CT in Hounsfield units."""


def clean_hu(values: Numbers, where: str) -> HounsfieldArray:
    """Check that values are HU, set padding to -1024 and clip to [-1024, 3071].

    Parameters
    ----------
    values
        Voxels as read, shape ``(z, row, column)``; those at or below -2000 are padding.
    where
        The file or folder, for error messages.

    Returns
    -------
    HU, same shape; ``int16`` where every value is an integer, otherwise ``float32``.

    Raises
    ------
    ScanError
        If a voxel is not finite, or the values cannot be HU: no air, no tissue, or far too large.
    """
    if values.dtype.kind not in "iuf":
        raise ScanError(f"{where}: voxels are of type {values.dtype}, expected real numbers in HU.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise ScanError(
            f"{where}: {count} voxels are NaN or infinite; export the scan again from its source."
        )
    outside = values <= PADDING_HU
    _check_plausible(values, outside, where)
    hu: NDArray[np.float32] = np.clip(values, HU_MIN, HU_MAX).astype(np.float32)
    hu[outside] = HU_MIN
    whole: NDArray[np.int16] = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


def _check_plausible(values: Numbers, outside: NDArray[np.bool_], where: str) -> None:
    inside = values[~outside]
    if inside.size == 0:
        raise ScanError(f"{where}: every voxel is padding; there is no image in it.")
    low, high = float(inside.min()), float(inside.max())
    found = f"values run from {low:g} to {high:g}"
    if low >= AIR_HU:
        raise ScanError(
            f"{where}: {found}, so there is no air and these are not Hounsfield units; "
            "apply the rescale slope and intercept (HU = slope * stored + intercept) and retry."
        )
    if high <= TISSUE_HU:
        raise ScanError(f"{where}: {found} HU, so there is nothing but air in this scan.")
    if high > IMPLAUSIBLE_HU and float((inside > IMPLAUSIBLE_HU).mean()) > 1e-3:
        raise ScanError(
            f"{where}: {found}, too large for Hounsfield units; is this really a CT scan?"
        )
