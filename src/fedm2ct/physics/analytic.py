r"""Filtered back-projection for parallel and fan beams, full, short and limited scans.

The pieces are apart, so that a network can start from them and learn on:

.. math:: x = \frac{1}{\mu_w} B\, \big[ W_{view} \cdot (( W_{red} \cdot W_{cos} \cdot p)\, F) \big]

with `cosine_weights`, `redundancy_weights` (before the filter, where Parker's weights belong),
the ramp `ramp_filter_matrix`, `view_bin_weights` (after it) and the pixel-driven
`fedm2ct.physics.operators.WeightedBackprojector`.

References: Kak and Slaney, *Principles of Computerized Tomographic Imaging*, chapter 3,
doi 10.1137/1.9780898719277.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid
from fedm2ct.physics.operators import WeightedBackprojector
from fedm2ct.physics.redundancy import (
    angular_steps,
    completed_detector,
    redundancy_weights,
)
from fedm2ct.units import MU_WATER_PER_MM

Window = Literal["ramp", "hann"]

__all__ = [
    "cosine_weights",
    "fbp",
    "ramp_filter_matrix",
    "redundancy_weights",
    "view_bin_weights",
]


def ramp_filter_matrix(geometry: Geometry, window: Window = "ramp") -> Tensor:
    """Return the band-limited ramp filter as a matrix to multiply a sinogram with from the right.

    The kernel is sampled in space and never wrapped around, so its response to a constant is
    right. The detector is rescaled to the isocentre; for a curved detector the kernel carries
    the factor ``(gamma / sin gamma)^2``.

    Parameters
    ----------
    geometry
        The acquisition geometry.
    window
        ``"ramp"`` (no apodisation) or ``"hann"`` (zero at the Nyquist frequency).

    Returns
    -------
    Tensor
        Symmetric Toeplitz matrix in 1/mm, shape ``(bins, bins)``, float64.

    Raises
    ------
    ValueError
        If the window is unknown.
    """
    if window not in ("ramp", "hann"):
        raise ValueError(f"window must be 'ramp' or 'hann', not {window!r}")
    pitch = geometry.detector_pitch_mm
    if isinstance(geometry, FanGeometry):
        pitch /= geometry.magnification
    n = np.arange(geometry.n_bins + 1)
    kernel = np.zeros(len(n))
    kernel[0] = 0.25
    kernel[1::2] = -1.0 / (np.pi * n[1::2]) ** 2
    if window == "hann":
        before = np.abs(n - 1)
        after = np.append(kernel[1:], 0.0)
        kernel = 0.5 * kernel + 0.25 * (kernel[before] + after)
    kernel = kernel[:-1] / pitch
    if isinstance(geometry, FanGeometry) and geometry.detector == "curved":
        gamma = n[1:-1] * geometry.detector_pitch_mm / geometry.source_to_detector_mm
        kernel[1:] *= (gamma / np.sin(gamma)) ** 2
    index = np.abs(np.subtract.outer(n[:-1], n[:-1]))
    return torch.from_numpy(kernel[index])


def cosine_weights(geometry: Geometry) -> Tensor:
    """Return the cosine of each bin's fan angle (1 for parallel beams), ``(bins,)`` float64."""
    if isinstance(geometry, FanGeometry):
        return torch.from_numpy(np.cos(geometry.fan_angles_rad))
    return torch.ones(geometry.n_bins, dtype=torch.float64)


def view_bin_weights(geometry: Geometry) -> Tensor:
    """Return the weights after the filter: each view's share of the half turn, in radians.

    Full scans see every ray twice and give each view half its angular step. Other scans give it
    the whole step (their doubly measured rays are dealt with by `redundancy_weights`). Scans
    below a half turn are scaled up to it, ``pi / span``, so that the middle of a round object
    keeps its value although views are missing.

    Returns
    -------
    Tensor
        Shape ``(views, bins)``, float64, the same for all bins of a view.
    """
    steps, full = angular_steps(geometry)
    total = float(steps.sum())
    scale = 0.5 if full else max(1.0, np.pi / total)
    column = torch.from_numpy(steps * scale)
    return column[:, None].repeat(1, geometry.n_bins)


def fbp(sinogram: Tensor, geometry: Geometry, grid: ImageGrid, window: Window = "ramp") -> Tensor:
    """Reconstruct by filtered back-projection.

    This is the formula at the head of this module; only where the detector of a full scan is
    shifted by more than a bin is it first completed (`completed_detector`).

    Parameters
    ----------
    sinogram
        Dimensionless line integrals, shape ``(..., views, bins)``.
    geometry
        The acquisition geometry.
    grid
        The image grid.
    window
        Apodisation of the ramp, ``"ramp"`` (none) or ``"hann"``.

    Returns
    -------
    Tensor
        Relative attenuation (air 0, water 1), shape ``(..., rows, columns)``, of the sinogram's
        dtype and device.

    Raises
    ------
    ValueError
        If the sinogram's shape is not the geometry's.
    """
    if tuple(sinogram.shape[-2:]) != geometry.shape:
        raise ValueError(
            f"sinogram: expected shape (..., {geometry.n_views}, {geometry.n_bins}), "
            f"got {tuple(sinogram.shape)}"
        )
    before, filter_matrix, after = (t.to(sinogram) for t in _tables(geometry, window))
    geometry, left, right = completed_detector(geometry)
    weighted = torch.nn.functional.pad(before * sinogram, (left, right))
    image: Tensor = WeightedBackprojector(geometry, grid)(weighted @ filter_matrix, after)
    return image


@lru_cache(maxsize=16)
def _tables(geometry: Geometry, window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Weights before the filter, the filter over water's attenuation, weights after it."""
    before = redundancy_weights(geometry) * cosine_weights(geometry)
    completed, _, _ = completed_detector(geometry)
    filter_matrix = ramp_filter_matrix(completed, window) / MU_WATER_PER_MM
    return before, filter_matrix, view_bin_weights(completed)
