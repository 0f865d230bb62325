"""Where each pixel falls on the detector: the numbers behind pixel-driven back-projection."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid
from fedm2ct.physics.projectors.rays import check_source_outside

PARALLEL, FLAT, CURVED = 0, 1, 2
_ATAN_TERMS = 13


@dataclass(frozen=True)
class PixelTable:
    """Constants of the pixel-driven back-projector.

    Attributes
    ----------
    kind
        `PARALLEL`, `FLAT` or `CURVED`.
    cos, sin
        Of the view angles, shape ``(views,)``.
    x, y
        Coordinates of the pixel columns and rows in mm.
    source_mm
        Source-to-isocentre distance, 0 for parallel beams.
    scale
        Bins per unit of the detector coordinate: per mm (parallel), per unit of ``tan`` (flat),
        per radian (curved) of the fan angle.
    first
        Detector coordinate of the isocentre in padded bins (bin 0 is one bin of padding).
    bins
        Number of bins without padding.
    atan
        Coefficients ``a_k`` of ``atan(r) = r * sum_k a_k (r^2)^k`` over the grid's fan angles,
        good to double precision's rounding for fans up to 45 degrees: it is much faster than
        the library's arc tangent, and the same in the operator and in its adjoint.
    """

    kind: int
    cos: NDArray[np.float64]
    sin: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    source_mm: float
    scale: float
    first: float
    bins: int
    atan: NDArray[np.float64]


@lru_cache(maxsize=32)
def pixel_table(geometry: Geometry, grid: ImageGrid) -> PixelTable:
    """Compute the constants of the pixel-driven back-projector.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image.
    """
    check_source_outside(geometry, grid)
    kind, source, scale = PARALLEL, 0.0, 1.0 / geometry.detector_pitch_mm
    atan = np.zeros(_ATAN_TERMS)
    if isinstance(geometry, FanGeometry):
        kind = FLAT if geometry.detector == "flat" else CURVED
        source = geometry.source_to_isocentre_mm
        scale *= geometry.source_to_detector_mm
        if kind == CURVED:
            atan = _atan_coefficients(geometry, grid)
    return PixelTable(
        kind,
        np.cos(geometry.angles),
        np.sin(geometry.angles),
        (np.arange(grid.columns, dtype=np.float64) - (grid.columns - 1) / 2) * grid.pixel_mm,
        ((grid.rows - 1) / 2 - np.arange(grid.rows, dtype=np.float64)) * grid.pixel_mm,
        source,
        scale,
        1.0 - float(geometry.bins_mm[0]) / geometry.detector_pitch_mm,
        geometry.n_bins,
        atan,
    )


def _atan_coefficients(geometry: FanGeometry, grid: ImageGrid) -> NDArray[np.float64]:
    radius = 0.5 * grid.pixel_mm * float(np.hypot(grid.rows, grid.columns))
    tangent = np.tan(np.arcsin(radius / geometry.source_to_isocentre_mm))
    end = float(tangent) ** 2

    def ratio(s: NDArray[np.float64]) -> NDArray[np.float64]:
        r = np.sqrt(np.maximum(s, 1e-300))
        return np.asarray(np.arctan(r) / r)

    fit = np.polynomial.Chebyshev.interpolate(ratio, _ATAN_TERMS - 1, domain=[0.0, end])
    coefficients = fit.convert(kind=np.polynomial.Polynomial).coef
    return np.pad(coefficients, (0, _ATAN_TERMS - len(coefficients)))
