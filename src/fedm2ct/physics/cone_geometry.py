r"""Cone-beam acquisitions, circular and helical, and volumes: frozen values in mm and radians.

The third dimension of `fedm2ct.physics.geometry`, whose conventions hold in every plane:

* ``z`` is the patient's long axis and grows towards the head (DICOM's S, the order of slices in
  `fedm2ct.data.scans`). The images are seen from the feet, so ``z`` points away from the viewer.
* Volume ``(slice, row, column)``: slice ``k`` of ``S`` is centred at
  ``z = centre_z + (k - (S-1)/2) * slice``: slice 0 has the lowest ``z``.
* Projections ``(view, detector row, detector column)``. Columns are the bins of a fan beam, with
  the coordinate ``u`` along ``e``. Row ``r`` of ``R`` is at
  ``v = (r - (R-1)/2) * row_pitch + row_offset``, which grows with ``z``.
* In a view, source and detector are at the height ``source_z``: ``v`` counts from there. A curved
  detector is a cylinder about the line through the nominal source along ``z``.
* A flying focal spot moves the source alone: by an angle, a radius and a height.

The element that the central ray meets, counted from 0 and with fractions (DICOM-CT-PD's detector
central element, less one), is ``(count - 1) / 2 - offset / pitch`` in rows and columns.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedm2ct.physics.geometry import FanGeometry, ImageGrid, equispaced_angles, require

Floats = NDArray[np.float64]
_SHIFTS = ("source_angle_shift_rad", "source_radial_shift_mm", "source_axial_shift_mm")


@dataclass(frozen=True)
class VolumeGrid:
    """A grid of voxels, square in the plane and centred there on the axis of rotation."""

    slices: int
    rows: int
    columns: int
    pixel_mm: float
    slice_mm: float
    centre_z_mm: float = 0.0

    def __post_init__(self) -> None:
        """Refuse empty grids and non-positive voxels."""
        require(
            min(self.shape) > 0, f"VolumeGrid: slices, rows, columns must be > 0, not {self.shape}"
        )
        for field in ("pixel_mm", "slice_mm"):
            value = getattr(self, field)
            require(0 < value < math.inf, f"VolumeGrid: {field} must be positive, not {value}")
        require(math.isfinite(self.centre_z_mm), "VolumeGrid: centre_z_mm must be finite")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return self.slices, self.rows, self.columns

    @property
    def plane(self) -> ImageGrid:
        """The grid of one slice."""
        return ImageGrid(self.rows, self.columns, self.pixel_mm)

    @property
    def z_mm(self) -> Floats:
        """Height of each slice's centre in mm, shape ``(slices,)``."""
        k = np.arange(self.slices, dtype=np.float64) - (self.slices - 1) / 2
        return self.centre_z_mm + k * self.slice_mm

    def refined(self, factor: int) -> "VolumeGrid":
        """Cover the same space with voxels ``factor`` times smaller."""
        return replace(
            self,
            slices=self.slices * factor,
            rows=self.rows * factor,
            columns=self.columns * factor,
            pixel_mm=self.pixel_mm / factor,
            slice_mm=self.slice_mm / factor,
        )


@dataclass(frozen=True)
class ConeGeometry:
    """Cone beam: a detector of rows and columns, flat or curved, on a circle or a helix.

    Attributes
    ----------
    angles_rad
        View angles, one for each view, counting on over the turns of a helix or not.
    n_rows, n_columns
        Number of detector rows (along ``z``) and columns.
    row_pitch_mm, column_pitch_mm
        Measured on the detector; columns along the arc when it is curved.
    source_to_isocentre_mm, source_to_detector_mm
        Nominal distances; the isocentre is the point of the axis of rotation below the source.
    detector
        ``"flat"`` or ``"curved"``.
    column_offset_mm, row_offset_mm
        Where the detector's centre lies, on the detector, as seen from the central ray.
    source_z_mm
        Height of source and detector in each view; empty for a circle in the plane ``z = 0``.
    source_angle_shift_rad, source_radial_shift_mm, source_axial_shift_mm
        Flying focal spot: what each view adds to the source's place, not to the detector's. Empty,
        or one number for each view.
    """

    angles_rad: tuple[float, ...]
    n_rows: int
    n_columns: int
    row_pitch_mm: float
    column_pitch_mm: float
    source_to_isocentre_mm: float
    source_to_detector_mm: float
    detector: Literal["flat", "curved"] = "flat"
    column_offset_mm: float = 0.0
    row_offset_mm: float = 0.0
    source_z_mm: tuple[float, ...] = ()
    source_angle_shift_rad: tuple[float, ...] = ()
    source_radial_shift_mm: tuple[float, ...] = ()
    source_axial_shift_mm: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse empty detectors, lists of another length than the views, impossible distances."""
        for field in ("n_rows", "n_columns", "row_pitch_mm", "column_pitch_mm"):
            value = getattr(self, field)
            require(0 < value < math.inf, f"ConeGeometry: {field} must be positive, not {value}")
        for field in ("column_offset_mm", "row_offset_mm"):
            require(math.isfinite(getattr(self, field)), f"ConeGeometry: {field} must be finite")
        for field in ("source_z_mm", "source_axial_shift_mm"):
            numbers = getattr(self, field)
            require(
                len(numbers) in (0, self.n_views) and all(map(math.isfinite, numbers)),
                f"ConeGeometry: {field} must be empty or hold one finite number for each of the "
                f"{self.n_views} views, not {len(numbers)}",
            )
        try:
            fan = self.in_plane
        except ValueError as error:  # the same fields, and the same rules for them
            raise ValueError(str(error).replace("FanGeometry", "ConeGeometry")) from None
        require(
            bool(np.abs(fan.fan_angles_rad).max() < math.pi / 2),
            "ConeGeometry: a curved detector must lie before the source: fewer or smaller columns",
        )

    @property
    def n_views(self) -> int:
        """Number of views."""
        return len(self.angles_rad)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Views, detector rows and columns: the last three axes of projections."""
        return self.n_views, self.n_rows, self.n_columns

    @cached_property
    def in_plane(self) -> FanGeometry:
        """The fan beam that remains when heights are forgotten."""
        return FanGeometry(
            self.angles_rad,
            self.n_columns,
            self.column_pitch_mm,
            self.source_to_isocentre_mm,
            self.source_to_detector_mm,
            self.detector,
            self.column_offset_mm,
            self.source_angle_shift_rad,
            self.source_radial_shift_mm,
        )

    @property
    def angles(self) -> Floats:
        """View angles in radians, shape ``(views,)``."""
        return self.in_plane.angles

    @cached_property
    def rows_mm(self) -> Floats:
        """Detector coordinate ``v`` of each row in mm, shape ``(rows,)``."""
        r = np.arange(self.n_rows, dtype=np.float64) - (self.n_rows - 1) / 2
        return r * self.row_pitch_mm + self.row_offset_mm

    @cached_property
    def detector_z_mm(self) -> Floats:
        """Height from which each view's ``v`` counts in mm, shape ``(views,)``."""
        return np.asarray(self.source_z_mm or np.zeros(self.n_views), dtype=np.float64)

    @cached_property
    def focus_z_mm(self) -> Floats:
        """Height of each view's source in mm, its shift included, shape ``(views,)``."""
        shift = np.asarray(self.source_axial_shift_mm or 0.0, dtype=np.float64)
        return np.asarray(self.detector_z_mm + shift)

    @cached_property
    def elements_mm(self) -> tuple[Floats, Floats]:
        """Each detector column in mm along ``n`` and along ``e``, shapes ``(columns,)``."""
        sid, sdd = self.source_to_isocentre_mm, self.source_to_detector_mm
        u = self.in_plane.bins_mm
        if self.detector == "curved":
            return sid - sdd * np.cos(u / sdd), sdd * np.sin(u / sdd)
        return np.full(self.n_columns, sid - sdd), u

    @property
    def is_helical(self) -> bool:
        """Whether the source moves along ``z`` from view to view."""
        return bool(np.ptp(self.detector_z_mm) > 0)

    @property
    def collimation_mm(self) -> float:
        """Height of the detector, scaled to the isocentre, in mm."""
        return self.n_rows * self.row_pitch_mm / self.in_plane.magnification

    def of_views(self, begin: int, end: int) -> "ConeGeometry":
        """Return the part of the scan with the views ``begin`` to ``end - 1``."""
        per_view = {
            field: getattr(self, field)[begin:end]
            for field in ("angles_rad", "source_z_mm", *_SHIFTS)
        }
        return replace(self, **per_view)


def helical(
    turn: ConeGeometry, turns: float, pitch: float, centre_z_mm: float = 0.0
) -> ConeGeometry:
    """Wind one circular turn into a helix.

    Parameters
    ----------
    turn
        A full circular scan with equispaced angles; all but angles and heights is kept.
    turns
        How many turns the source makes.
    pitch
        Table feed per turn over the collimation at the isocentre (`ConeGeometry.collimation_mm`),
        as scanners define it; negative towards the feet.
    centre_z_mm
        Height of the middle of the helix.

    Returns
    -------
    ConeGeometry
        With ``round(turns * views)`` views whose angles count on.

    Raises
    ------
    ValueError
        If ``turn`` is not such a scan, or turns or pitch make no helix.
    """
    step = 2 * math.pi / turn.n_views
    whole = equispaced_angles(turn.n_views, start_rad=turn.angles_rad[0])
    require(
        bool(np.allclose(turn.angles, whole)) and not turn.is_helical,
        "helical: turn must be a full circle of equispaced angles in one plane",
    )
    shifts = any(getattr(turn, field) for field in _SHIFTS)
    require(not shifts, "helical: give the focal spot's shifts with the helix's own views")
    require(math.isfinite(pitch) and pitch != 0, "helical: pitch must be finite and not zero")
    require(turns * turn.n_views >= 1, "helical: turns must be positive")
    count = round(turns * turn.n_views)
    at = np.arange(count) - (count - 1) / 2
    heights = centre_z_mm + at * pitch * turn.collimation_mm / turn.n_views
    return replace(
        turn,
        angles_rad=tuple(turn.angles_rad[0] + step * i for i in range(count)),
        source_z_mm=tuple(float(z) for z in heights),
    )
