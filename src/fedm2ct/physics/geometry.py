r"""Acquisition geometries and image grids: frozen values, lengths in mm, angles in radians.

Conventions, stated once for the whole project (drawing in ``docs/conventions.md``):

* Image row 0 is the top; ``x`` points right, ``y`` up; the isocentre is the image's centre.
  Pixel ``(i, j)`` of an ``R x C`` grid is centred at ``x = (j - (C-1)/2) * pixel``,
  ``y = ((R-1)/2 - i) * pixel``.
* View angle :math:`\theta` counts counter-clockwise from the x axis. With
  ``n = (cos, sin)`` and ``e = (-sin, cos)`` of :math:`\theta`, the source of a fan geometry
  is at ``SID * n`` and its detector's centre at ``(SID - SDD) * n``.
* Bin ``k`` of ``D`` has the detector coordinate ``u = (k - (D-1)/2) * pitch + offset``, which
  grows along ``e``. Parallel beam: the ray is the line ``x . e = u``. Flat detector: the bin is
  at ``(SID - SDD) * n + u * e``. Curved detector (arc about the nominal source): the bin is seen
  from there under the angle ``u / SDD`` from the central ray.
* A flying focal spot moves a view's source to the radius ``SID + radial shift`` and the angle
  ``theta + angle shift``; the detector stays where it is.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ImageGrid:
    """A grid of square pixels, centred on the isocentre."""

    rows: int
    columns: int
    pixel_mm: float

    def __post_init__(self) -> None:
        """Refuse empty grids and non-positive pixels."""
        require(self.rows > 0 and self.columns > 0, "image grid: rows and columns must be positive")
        require(self.pixel_mm > 0, "image grid: pixel_mm must be positive")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def field_of_view_mm(self) -> float:
        """Length of the longer side in mm."""
        return max(self.rows, self.columns) * self.pixel_mm

    def refined(self, factor: int) -> "ImageGrid":
        """Cover the same area with pixels ``factor`` times smaller."""
        return ImageGrid(self.rows * factor, self.columns * factor, self.pixel_mm / factor)


@dataclass(frozen=True)
class _Geometry:
    angles_rad: tuple[float, ...]
    n_bins: int
    detector_pitch_mm: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        require(len(self.angles_rad) > 0, f"{name}: angles_rad must hold at least one angle")
        require(all(map(math.isfinite, self.angles_rad)), f"{name}: angles_rad must be finite")
        require(self.n_bins > 0, f"{name}: n_bins must be positive")
        require(self.detector_pitch_mm > 0, f"{name}: detector_pitch_mm must be positive")

    @property
    def n_views(self) -> int:
        """Number of views."""
        return len(self.angles_rad)

    @property
    def shape(self) -> tuple[int, int]:
        """Views and bins: the last two axes of a sinogram."""
        return self.n_views, self.n_bins

    @cached_property
    def angles(self) -> NDArray[np.float64]:
        """View angles in radians, shape ``(views,)``."""
        return np.asarray(self.angles_rad, dtype=np.float64)


@dataclass(frozen=True)
class ParallelGeometry(_Geometry):
    """Parallel beam: ``detector_pitch_mm`` is the distance between rays."""

    detector_offset_mm: float = 0.0

    @cached_property
    def bins_mm(self) -> NDArray[np.float64]:
        """Detector coordinate ``u`` of each bin in mm, shape ``(bins,)``."""
        k = np.arange(self.n_bins, dtype=np.float64) - (self.n_bins - 1) / 2
        return k * self.detector_pitch_mm + self.detector_offset_mm

    @property
    def covered_radius_mm(self) -> float:
        """Radius in mm of the disc about the isocentre that every view sees whole."""
        half = self.n_bins * self.detector_pitch_mm / 2
        return max(0.0, half - abs(self.detector_offset_mm))


@dataclass(frozen=True)
class FanGeometry(_Geometry):
    """Fan beam with a flat detector or one curved about the source.

    ``detector_pitch_mm`` is measured on the detector (along the arc when curved). A flying focal
    spot is given view by view: ``source_angle_shift_rad`` and ``source_radial_shift_mm`` are
    empty, or hold one number for each view.
    """

    source_to_isocentre_mm: float
    source_to_detector_mm: float
    detector: Literal["flat", "curved"] = "flat"
    detector_offset_mm: float = 0.0
    source_angle_shift_rad: tuple[float, ...] = ()
    source_radial_shift_mm: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse distances that put the isocentre behind the source or the detector before it."""
        super().__post_init__()
        require(self.source_to_isocentre_mm > 0, "FanGeometry: source_to_isocentre_mm must be > 0")
        require(
            self.source_to_detector_mm >= self.source_to_isocentre_mm,
            "FanGeometry: source_to_detector_mm must not be below source_to_isocentre_mm",
        )
        require(
            self.detector in ("flat", "curved"),
            f"FanGeometry: detector must be 'flat' or 'curved', not {self.detector!r}",
        )
        for field in ("source_angle_shift_rad", "source_radial_shift_mm"):
            shift = getattr(self, field)
            require(
                len(shift) in (0, self.n_views) and all(map(math.isfinite, shift)),
                f"FanGeometry: {field} must be empty or hold one finite number for each of the "
                f"{self.n_views} views, not {len(shift)}",
            )
        along, _ = self.sources_mm
        require(
            bool(np.all(along > self.source_to_isocentre_mm - self.source_to_detector_mm)),
            "FanGeometry: source_radial_shift_mm puts the source behind the detector",
        )

    @cached_property
    def bins_mm(self) -> NDArray[np.float64]:
        """Detector coordinate ``u`` of each bin in mm, shape ``(bins,)``."""
        k = np.arange(self.n_bins, dtype=np.float64) - (self.n_bins - 1) / 2
        return k * self.detector_pitch_mm + self.detector_offset_mm

    @cached_property
    def fan_angles_rad(self) -> NDArray[np.float64]:
        """Angle of each bin from the central ray in radians, shape ``(bins,)``."""
        if self.detector == "curved":
            return self.bins_mm / self.source_to_detector_mm
        return np.arctan(self.bins_mm / self.source_to_detector_mm)

    @cached_property
    def sources_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each view's source in mm along ``n`` and along ``e``, shapes ``(views,)``.

        The nominal source lies at ``(source_to_isocentre_mm, 0)``.
        """
        zero = np.zeros(self.n_views)
        radius = self.source_to_isocentre_mm + np.asarray(self.source_radial_shift_mm or zero)
        angle = np.asarray(self.source_angle_shift_rad or zero)
        return radius * np.cos(angle), radius * np.sin(angle)

    @property
    def has_source_shift(self) -> bool:
        """Whether any view's source is off its nominal place."""
        return any(self.source_angle_shift_rad) or any(self.source_radial_shift_mm)

    @property
    def magnification(self) -> float:
        """Ratio of the source-detector to the source-isocentre distance."""
        return self.source_to_detector_mm / self.source_to_isocentre_mm

    @property
    def covered_radius_mm(self) -> float:
        """Radius in mm of the disc about the isocentre that every view sees whole."""
        half = self.n_bins * self.detector_pitch_mm / 2 - abs(self.detector_offset_mm)
        if half <= 0:
            return 0.0
        ratio = half / self.source_to_detector_mm
        edge = ratio if self.detector == "curved" else math.atan(ratio)
        return self.source_to_isocentre_mm * math.sin(min(edge, math.pi / 2))


Geometry = ParallelGeometry | FanGeometry


def equispaced_angles(
    n_views: int, span_rad: float = 2 * math.pi, start_rad: float = 0.0
) -> tuple[float, ...]:
    """Return ``n_views`` angles spaced by ``span_rad / n_views`` from ``start_rad``."""
    require(n_views > 0, "equispaced_angles: n_views must be positive")
    return tuple(start_rad + span_rad * i / n_views for i in range(n_views))
