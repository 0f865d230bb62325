"""A scan in, a file of low-dose projections out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedm2ct.data.projections import write_projections
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import PairedData, simulate
from fedm2ct.data.sites import pick_slices
from fedm2ct.learning.seeds import generator
from fedm2ct.physics.protocols import get_protocol, warn_if_truncated
from fedm2ct.pipeline.prepare import load_any
from fedm2ct.units import relative_to_hu

_SLICES_AT_ONCE = 4


def simulate_file(
    scan: str,
    protocol: str,
    out: Path,
    size: int | None,
    slices: int | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> tuple[int, ...]:
    """Simulate the acquisition of a scan and write it; return the projections' shape.

    Parameters
    ----------
    scan
        Path or sample's name.
    protocol
        Name of a built-in protocol.
    out
        HDF5 file to write.
    size
        Image size in pixels; None: the protocol's own.
    slices
        Evenly spaced slices; None: every slice that shows a body.
    seed
        Seed of the noise.
    progress
        Takes the number of slices done and their total.

    Raises
    ------
    FedM2CTError
        When the scan cannot be read, the protocol is not known, or the file cannot be written.
    """
    chosen = get_protocol(protocol)
    if size is not None:
        chosen = chosen.scaled(size)
    warn_if_truncated(chosen, chosen.grid.field_of_view_mm / 2)
    volume = load_any(scan)
    indices = pick_slices(volume, slices or len(volume.hu))
    noise = generator(seed, "simulate")
    parts = []
    for first in range(0, len(indices), _SLICES_AT_ONCE):
        several = indices[first : first + _SLICES_AT_ONCE]
        parts.append(simulate(volume, several, chosen, noise))
        progress(first + len(several), len(indices))
    data = PairedData.joined(parts)
    provenance = {
        "scan": volume.name,
        "slices": list(indices),
        "slice_spacing_mm": _apart_mm(volume, indices),
        "seed": seed,
    }
    truth = relative_to_hu(data.truth)
    write_projections(out, data.projections, chosen, truth_hu=truth, provenance=provenance)
    return tuple(data.projections.shape)


def _apart_mm(scan: Scan, indices: Sequence[int]) -> float:
    """Return the mean distance of the slices chosen."""
    gap = float(np.diff(indices).mean()) if len(indices) > 1 else 1.0
    return gap * scan.spacing_zyx_mm[0]
