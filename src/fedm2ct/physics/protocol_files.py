"""Protocols as plain dictionaries, for TOML and JSON files: angles in degrees, lengths in mm."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedm2ct.physics.geometry import (
    FanGeometry,
    Geometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.protocol import Protocol, ProtocolError

_COUNTS = ("views", "bins", "size", "rows", "columns")
_NUMBERS = (
    "span_deg",
    "start_deg",
    "pitch_mm",
    "offset_mm",
    "source_to_isocentre_mm",
    "source_to_detector_mm",
    "pixel_mm",
    "photons",
    "electronic_noise",
)
_OPTIONAL_NUMBERS = ("tube_kvp", "slice_thickness_mm")
_TEXTS = ("name", "beam", "detector", "kernel", "anatomy", "source")
_SHIFTS = ("source_angle_shift_rad", "source_radial_shift_mm")
_FAN_ONLY = ("detector", "source_to_isocentre_mm", "source_to_detector_mm", *_SHIFTS)
_LISTS = ("angles_deg", "angles_rad", *_SHIFTS)
_FIELDS = (*_COUNTS, *_NUMBERS, *_OPTIONAL_NUMBERS, *_TEXTS, *_LISTS)


def protocol_from_dict(d: Mapping[str, Any]) -> Protocol:
    """Build a protocol from plain values.

    Parameters
    ----------
    d
        ``name``; ``beam`` (``"parallel"`` or ``"fan"``); ``bins``, ``pitch_mm``, optionally
        ``offset_mm``; either ``angles_deg`` or ``angles_rad`` (a list) or ``views`` with
        optionally ``span_deg`` (360) and ``start_deg`` (0); for fans ``source_to_isocentre_mm``,
        ``source_to_detector_mm`` and optionally ``detector`` (``"flat"`` or ``"curved"``) and, for
        a flying focal spot, ``source_angle_shift_rad`` and ``source_radial_shift_mm`` (a list with
        a number for each view);
        ``size``, or ``rows`` and ``columns``; ``pixel_mm``; ``photons``; optionally
        ``electronic_noise`` (0), ``tube_kvp``, ``slice_thickness_mm``, ``kernel``, ``anatomy``
        and ``source``.

    Raises
    ------
    ProtocolError
        Naming the field that is unknown, missing, of the wrong type or out of range.
    """
    known = _Fields(d)
    try:
        return Protocol(
            name=known.name,
            geometry=_geometry(known),
            grid=_grid(known),
            photons=known.number("photons"),
            electronic_noise=known.number("electronic_noise", 0.0),
            tube_kvp=known.maybe("tube_kvp"),
            slice_thickness_mm=known.maybe("slice_thickness_mm"),
            kernel=known.values.get("kernel"),
            anatomy=known.values.get("anatomy"),
            source=known.values.get("source") or "",
        )
    except ValueError as error:  # the geometry's and the grid's own checks
        raise ProtocolError(f"protocol {known.name!r}: {error}") from error


class _Fields:
    """The fields of a protocol's dictionary, checked for name and type."""

    def __init__(self, d: Mapping[str, Any]) -> None:
        if not isinstance(d, Mapping):
            raise ProtocolError(f"a protocol must be a table of fields, not {type(d).__name__}")
        self.values = dict(d)
        self.name = str(d.get("name", "?"))
        for field, value in d.items():
            self._check(field, value)
        if "name" not in d:
            raise self.error("the field 'name' is missing")

    def error(self, what: str) -> ProtocolError:
        """Return the error that names the protocol."""
        return ProtocolError(f"protocol {self.name!r}: {what}")

    def _check(self, field: str, value: object) -> None:
        if field not in _FIELDS:
            close = difflib.get_close_matches(str(field), _FIELDS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise self.error(f"unknown field {field!r}{hint}")
        if value is None and field in (*_OPTIONAL_NUMBERS, "kernel", "anatomy"):
            return
        if field in _LISTS:
            right = isinstance(value, list | tuple) and all(map(_is_number, value))
            wanted = "a list of numbers"
        elif field in _TEXTS:
            right, wanted = isinstance(value, str), "a text"
        elif field in _COUNTS:
            right = isinstance(value, int) and not isinstance(value, bool)
            wanted = "a whole number"
        else:
            right, wanted = _is_number(value), "a finite number"
        if not right:
            raise self.error(f"{field} must be {wanted}, not {value!r}")

    def need(self, field: str) -> Any:
        """Return a field that must be there."""
        if field not in self.values:
            raise self.error(f"the field {field!r} is missing")
        return self.values[field]

    def number(self, field: str, default: float | None = None) -> float:
        """Return a number, which must be there unless it has a default."""
        return float(self.need(field) if default is None else self.values.get(field, default))

    def maybe(self, field: str) -> float | None:
        """Return a number or None."""
        value = self.values.get(field)
        return None if value is None else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_angles(known: _Fields) -> tuple[float, ...]:
    given = [f for f in ("angles_deg", "angles_rad", "views") if f in known.values]
    if not given:
        raise known.error("the field 'views' (or 'angles_deg') is missing")
    if len(given) > 1:
        raise known.error(f"give either {given[0]} or {given[1]}, not both")
    values = known.values[given[0]]
    if given[0] == "views":
        span, start = known.number("span_deg", 360.0), known.number("start_deg", 0.0)
        return equispaced_angles(values, math.radians(span), math.radians(start))
    for field in ("span_deg", "start_deg"):
        if field in known.values:
            raise known.error(f"{field} has no meaning beside {given[0]}: remove it")
    return tuple(map(math.radians if given[0] == "angles_deg" else float, values))


def _geometry(known: _Fields) -> Geometry:
    values, angles = known.values, _read_angles(known)
    beam, bins, pitch = known.need("beam"), known.need("bins"), known.number("pitch_mm")
    offset = known.number("offset_mm", 0.0)
    if beam == "parallel":
        for field in _FAN_ONLY:
            if field in values:
                raise known.error(f"{field} has no meaning for a parallel beam: remove it")
        return ParallelGeometry(angles, bins, pitch, offset)
    if beam != "fan":
        raise known.error(f"beam must be 'parallel' or 'fan', not {beam!r}")
    isocentre = known.number("source_to_isocentre_mm")
    behind = known.number("source_to_detector_mm")
    return FanGeometry(
        angles,
        bins,
        pitch,
        isocentre,
        behind,
        values.get("detector", "flat"),
        offset,
        *(tuple(map(float, values.get(field, ()))) for field in _SHIFTS),
    )


def _grid(known: _Fields) -> ImageGrid:
    if "size" in known.values:
        if "rows" in known.values or "columns" in known.values:
            raise known.error("give either size or rows and columns, not both")
        rows = columns = known.values["size"]
    elif "rows" in known.values:
        rows, columns = known.values["rows"], known.need("columns")
    else:
        raise known.error("the field 'size' is missing")
    return ImageGrid(rows, columns, known.number("pixel_mm"))


def protocol_to_dict(protocol: Protocol) -> dict[str, Any]:
    """Return a protocol as plain values; `protocol_from_dict` gives an equal protocol.

    Angles take the shortest form that loses nothing. Fields that are None are left out.
    """
    geometry, grid = protocol.geometry, protocol.grid
    d: dict[str, Any] = {
        "name": protocol.name,
        "beam": "parallel",
        **_angles(geometry),
        "bins": geometry.n_bins,
        "pitch_mm": geometry.detector_pitch_mm,
        "offset_mm": geometry.detector_offset_mm,
    }
    if isinstance(geometry, FanGeometry):
        d["beam"] = "fan"
        d["detector"] = geometry.detector
        d["source_to_isocentre_mm"] = geometry.source_to_isocentre_mm
        d["source_to_detector_mm"] = geometry.source_to_detector_mm
        d |= {
            field: list(getattr(geometry, field)) for field in _SHIFTS if getattr(geometry, field)
        }
    if grid.rows == grid.columns:
        d["size"] = grid.rows
    else:
        d["rows"], d["columns"] = grid.shape
    d["pixel_mm"] = grid.pixel_mm
    d["photons"], d["electronic_noise"] = protocol.photons, protocol.electronic_noise
    for field in ("tube_kvp", "slice_thickness_mm", "kernel", "anatomy"):
        value = getattr(protocol, field)
        if value is not None:
            d[field] = value
    d["source"] = protocol.source
    return d


def protocol_text(protocol: Protocol) -> str:
    """Return a protocol as one text: equal protocols have equal texts, to hash or to sort by."""
    return json.dumps(protocol_to_dict(protocol), sort_keys=True)


def unnamed(protocol: Protocol) -> Protocol:
    """Return a protocol without what tells whose it is: its name and its source."""
    return replace(protocol, name="unnamed", source="")


def _angles(geometry: Geometry) -> dict[str, Any]:
    """Return the shortest form that gives back exactly the same angles."""
    angles, n = geometry.angles_rad, geometry.n_views
    start = round(math.degrees(angles[0]), 9)
    step = angles[1] - angles[0] if n > 1 else math.tau
    span = round(math.degrees(step * n), 9)
    if equispaced_angles(n, math.radians(span), math.radians(start)) == angles:
        return {"views": n, "span_deg": span, "start_deg": start}
    degrees = [math.degrees(angle) for angle in angles]
    if tuple(map(math.radians, degrees)) == angles:
        return {"angles_deg": degrees}
    return {"angles_rad": list(angles)}
