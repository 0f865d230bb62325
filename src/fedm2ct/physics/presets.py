"""The built-in protocols, each with its source. Lengths in mm.

What a source does not state stays None; a dose that it does not state is ours, and said so.
"""

import difflib
import math
from typing import Literal

from fedm2ct.physics.geometry import (
    FanGeometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.protocol import Protocol, ProtocolError

_HYPERFED = "HyperFed's public code, test site {}, 256 x 256; flat detector, no electronic noise"
_PHYSFED = "SCAN-PhysFed's public code, site {}, 256 x 256; flat detector, no electronic noise"

# views, bins, pixel, pitch, source to isocentre, isocentre to detector, photons
_Row = tuple[int, int, float, float, float, float, float]
_Mixed = tuple[str, int, float, float, float, float, Literal["flat", "curved"], float, float]
_HYPERFED_SITES: tuple[_Row, ...] = (
    (512, 368, 1.33, 2.5716, 595.0, 490.6, 5e4),
    (512, 315, 1.40, 3.00, 450.0, 350.0, 6.875e4),
    (384, 330, 1.39, 2.60, 400.0, 300.0, 8.75e4),
    (400, 350, 1.20, 2.20, 400.0, 350.0, 1.0625e5),
    (384, 350, 1.40, 2.50, 500.0, 300.0, 1.25e5),
)
_PHYSFED_SITES: tuple[_Row, ...] = (
    (1024, 512, 0.66, 0.72, 250.0, 250.0, 1e5),
    (128, 768, 0.78, 0.58, 350.0, 300.0, 1e6),
    (512, 768, 1.00, 1.20, 500.0, 400.0, 5e4),
    (384, 600, 1.40, 1.50, 350.0, 300.0, 1.25e5),
    (712, 720, 0.60, 0.82, 300.0, 350.0, 1.3e5),
    (200, 730, 0.88, 0.78, 350.0, 280.0, 9e5),
    (560, 755, 1.20, 1.30, 300.0, 400.0, 4.5e4),
    (368, 500, 1.00, 1.30, 350.0, 350.0, 1.45e5),
)


def _fan_site(name: str, row: _Row, source: str) -> Protocol:
    views, bins, pixel, pitch, isocentre, behind, photons = row
    geometry = FanGeometry(equispaced_angles(views), bins, pitch, isocentre, isocentre + behind)
    return Protocol(name, geometry, ImageGrid(256, 256, pixel), photons, 0.0, source=source)


def _published() -> list[Protocol]:
    mayo = Protocol(
        "mayo",
        FanGeometry(equispaced_angles(1152), 736, 1.2858, 595.0, 1085.6, "curved"),
        ImageGrid(512, 512, 0.75),
        photons=1e5,
        electronic_noise=10.0,
        source="Siemens AS+ of the AAPM low-dose challenge (Mayo); grid and dose are ours",
    )
    lodopab = Protocol(
        "lodopab",
        ParallelGeometry(equispaced_angles(1000, math.pi), 513, 260 * math.sqrt(2) / 513),
        ImageGrid(362, 362, 260 / 362),
        photons=4096.0,
        electronic_noise=0.0,
        source="LoDoPaB-CT, doi 10.1038/s41597-021-00893-z",
    )
    hyperfed = [
        _fan_site(f"hyperfed-{i}", row, _HYPERFED.format(i))
        for i, row in enumerate(_HYPERFED_SITES, 1)
    ]
    physfed = [
        _fan_site(f"scan-physfed-{i}", row, _PHYSFED.format(i))
        for i, row in enumerate(_PHYSFED_SITES, 1)
    ]
    return [mayo, lodopab, *hyperfed, *physfed]


def _demo() -> list[Protocol]:
    """Four sites that differ in everything, at 128 x 128; 184 bins cover the field of view."""
    grid, source = ImageGrid(128, 128, 3.125), "FedM2CT's demo"
    half = math.asin(200 / 595)
    low_mas = FanGeometry(
        equispaced_angles(240), 184, 2 * 1085.6 * math.tan(half) / 184, 595.0, 1085.6
    )
    sparse = FanGeometry(
        equispaced_angles(40), 184, 2 * 1000 * math.tan(math.asin(200 / 500)) / 184, 500.0, 1000.0
    )
    limited = FanGeometry(
        equispaced_angles(120, math.radians(120), math.radians(30)),
        184,
        2 * 1085.6 * half / 184,
        595.0,
        1085.6,
        "curved",
    )
    parallel = ParallelGeometry(equispaced_angles(180, math.pi), 184, 460 / 184)
    return [
        Protocol("demo-low-mas", low_mas, grid, 5e3, 5.0, source=source),
        Protocol("demo-sparse", sparse, grid, 5e4, 5.0, source=source),
        Protocol("demo-limited", limited, grid, 5e4, 5.0, source=source),
        Protocol(
            "demo-parallel", parallel, ImageGrid(128, 128, 460 / 128), 4e3, 5.0, source=source
        ),
    ]


def _mixed() -> list[Protocol]:
    """Two low-mAs, two sparse-view, two limited-angle sites; four gantries, several doses."""
    source = "FedM2CT's benchmark, all-in-one"
    rows: tuple[
        _Mixed, ...
    ] = (  # name, views, arc and start in degrees, SID, SDD, detector, field of view, photons
        ("low-mas-1", 240, 360, 0, 595.0, 1085.6, "flat", 400.0, 3e3),
        ("low-mas-2", 240, 360, 0, 541.0, 949.0, "curved", 420.0, 1.2e4),
        ("sparse-1", 40, 360, 0, 500.0, 1000.0, "flat", 400.0, 5e4),
        ("limited-1", 120, 120, 30, 595.0, 1085.6, "curved", 400.0, 5e4),
        ("limited-2", 150, 150, 0, 541.0, 949.0, "flat", 400.0, 1.5e4),
    )
    protocols = []
    for name, views, arc, start, sid, sdd, detector, seen, photons in rows:
        half = math.asin(seen / 2 / sid)
        length = 2 * sdd * (half if detector == "curved" else math.tan(half))
        angles = equispaced_angles(views, math.radians(arc), math.radians(start))
        geometry = FanGeometry(angles, 184, length / 184, sid, sdd, detector)
        grid = ImageGrid(128, 128, seen / 128)
        protocols.append(Protocol(name, geometry, grid, photons, 5.0, source=source))
    parallel = ParallelGeometry(equispaced_angles(64, math.pi), 184, 440 / 184)
    grid = ImageGrid(128, 128, 440 / 128)
    return [*protocols, Protocol("sparse-2", parallel, grid, 1.5e4, 5.0, source=source)]


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (*_published(), *_demo(), *_mixed())}
"""Every built-in protocol by name."""


def get_protocol(name: str) -> Protocol:
    """Return a built-in protocol.

    Raises
    ------
    ProtocolError
        If there is none of that name; the message offers the closest ones.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    close = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.4) or sorted(PROTOCOLS)
    raise ProtocolError(f"there is no protocol {name!r}; did you mean {' or '.join(close)}?")
