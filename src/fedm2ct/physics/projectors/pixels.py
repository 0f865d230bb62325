"""Where each pixel falls on the detector: the numbers behind pixel-driven back-projection."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, Geometry, ImageGrid
from fedm2ct.physics.projectors.rays import check_source_outside

PARALLEL, FLAT, CURVED, CURVED_SHIFTED = 0, 1, 2, 3
_ATAN_TERMS = 13


@dataclass(frozen=True)
class PixelTable:
    """Constants of the pixel-driven back-projector.

    Attributes
    ----------
    kind
        `PARALLEL`, `FLAT`, `CURVED` or, with a flying focal spot, `CURVED_SHIFTED`.
    cos, sin
        Of the view angles, shape ``(views,)``.
    x, y
        Coordinates of the pixel columns and rows in mm.
    along, across
        Each view's source in mm along ``n`` and ``e``, 0 for parallel beams; shape ``(views,)``.
    behind_mm
        Distance from the isocentre to the detector along the central ray, 0 for parallel beams.
    detector_mm
        Source-to-detector distance, 0 for parallel beams.
    scale
        Bins per mm of the detector (parallel, flat) or per radian of the fan angle (curved).
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
    along: NDArray[np.float64]
    across: NDArray[np.float64]
    behind_mm: float
    detector_mm: float
    scale: float
    first: float
    bins: int
    atan: NDArray[np.float64]


@lru_cache(maxsize=8)
def pixel_table(geometry: Geometry, grid: ImageGrid) -> PixelTable:
    """Compute the constants of the pixel-driven back-projector.

    Raises
    ------
    ValueError
        If a fan beam's source would lie within the image.
    """
    check_source_outside(geometry, grid)
    kind, scale = PARALLEL, 1.0 / geometry.detector_pitch_mm
    along = across = np.zeros(geometry.n_views)
    detector = behind = 0.0
    atan = np.zeros(_ATAN_TERMS)
    if isinstance(geometry, FanGeometry):
        along, across = geometry.sources_mm
        detector = geometry.source_to_detector_mm
        behind = detector - geometry.source_to_isocentre_mm
        kind = FLAT
        if geometry.detector == "curved":
            kind = CURVED_SHIFTED if geometry.has_source_shift else CURVED
            scale *= detector
            atan = _atan_coefficients(geometry, grid)
    return PixelTable(
        kind,
        np.cos(geometry.angles),
        np.sin(geometry.angles),
        (np.arange(grid.columns, dtype=np.float64) - (grid.columns - 1) / 2) * grid.pixel_mm,
        ((grid.rows - 1) / 2 - np.arange(grid.rows, dtype=np.float64)) * grid.pixel_mm,
        along,
        across,
        behind,
        detector,
        scale,
        1.0 - float(geometry.bins_mm[0]) / geometry.detector_pitch_mm,
        geometry.n_bins,
        atan,
    )


def _atan_coefficients(geometry: FanGeometry, grid: ImageGrid) -> NDArray[np.float64]:
    radius = 0.5 * grid.pixel_mm * float(np.hypot(grid.rows, grid.columns))
    along, across = geometry.sources_mm
    widest = np.arcsin(radius / np.hypot(along, across)) + np.abs(np.arctan2(across, along))
    end = float(np.tan(widest).max()) ** 2

    def ratio(s: NDArray[np.float64]) -> NDArray[np.float64]:
        r = np.sqrt(np.maximum(s, 1e-300))
        return np.asarray(np.arctan(r) / r)

    fit = np.polynomial.Chebyshev.interpolate(ratio, _ATAN_TERMS - 1, domain=[0.0, end])
    coefficients = fit.convert(kind=np.polynomial.Polynomial).coef
    return np.pad(coefficients, (0, _ATAN_TERMS - len(coefficients)))
