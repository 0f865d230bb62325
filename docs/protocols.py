"""Write the table of docs/protocols.md: python docs/protocols.py."""

import math
from pathlib import Path

from fedm2ct.files import write_atomically
from fedm2ct.physics.geometry import FanGeometry
from fedm2ct.physics.protocols import PROTOCOLS, Protocol, truncation_mm
from fedm2ct.physics.redundancy import angular_steps

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- table: python docs/protocols.py -->", "<!-- end of table -->"
HEADER = (
    *("Name", "Beam", "Views", "Arc / deg", "Bins", "Pitch / mm", "SID / mm", "SDD / mm"),
    *("Size", "Pixel / mm", "Photons", "El. noise", "Missed / mm", "Source"),
)


def row(protocol: Protocol) -> list[str]:
    """Return a protocol's cells."""
    geometry, grid = protocol.geometry, protocol.grid
    beam, distances = "parallel", ["", ""]
    if isinstance(geometry, FanGeometry):
        beam = f"fan, {geometry.detector}"
        distances = [
            f"{geometry.source_to_isocentre_mm:g}",
            f"{geometry.source_to_detector_mm:g}",
        ]
    arc = math.degrees(float(angular_steps(geometry)[0].sum()))
    return [
        f"`{protocol.name}`",
        beam,
        str(geometry.n_views),
        f"{arc:.0f}",
        str(geometry.n_bins),
        f"{geometry.detector_pitch_mm:.4g}",
        *distances,
        f"{grid.rows} x {grid.columns}",
        f"{grid.pixel_mm:.4g}",
        f"{protocol.photons:g}",
        f"{protocol.electronic_noise:g}",
        f"{truncation_mm(protocol):.0f}",
        protocol.source,
    ]


def table() -> str:
    """Return the table of all built-in protocols as Markdown."""
    rows = [list(HEADER), ["---"] * len(HEADER), *map(row, PROTOCOLS.values())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def with_table(page: str) -> str:
    """Return the page with its table replaced by that of the code."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    write_atomically(PAGE, with_table(PAGE.read_text(encoding="utf-8")).encode())
