"""The only unit conversions in the project: Hounsfield units and relative attenuation.

Inside networks and operators an image holds *relative attenuation*: linear attenuation
divided by that of water, so that air is 0 and water is 1. Files, metrics and figures hold
Hounsfield units (HU). A sinogram holds dimensionless line integrals, that is, the integral of
relative attenuation in mm times `MU_WATER_PER_MM`.
"""

from typing import TypeVar

import numpy as np
import torch

MU_WATER_PER_MM = 0.0192
"""Linear attenuation of water near 70 keV, in 1/mm (NIST XCOM: 0.1929 1/cm)."""

HU_MIN, HU_MAX = -1024.0, 3071.0
"""The range of a 12-bit CT image in HU: the project's full data range for metrics."""

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, torch.Tensor)


def hu_to_relative(hu: ArrayOrTensor, *, clip: bool = True) -> ArrayOrTensor:
    """Convert HU to relative attenuation (air 0, water 1); values below air become 0 if `clip`."""
    relative: ArrayOrTensor = hu / 1000.0 + 1.0
    return relative.clip(min=0.0) if clip else relative


def relative_to_hu(relative: ArrayOrTensor) -> ArrayOrTensor:
    """Convert relative attenuation (air 0, water 1) to HU, without clipping."""
    hu: ArrayOrTensor = (relative - 1.0) * 1000.0
    return hu
