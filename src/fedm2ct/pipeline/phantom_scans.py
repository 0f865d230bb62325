"""Analytic bodies as scans: what the demo runs on when no sample scan can be had."""

import re

import numpy as np

from fedm2ct.data.scans import Scan, ScanError
from fedm2ct.learning.seeds import generator
from fedm2ct.physics.geometry import ImageGrid
from fedm2ct.physics.phantoms import abdomen_like, ellipse_image
from fedm2ct.units import HU_MAX, HU_MIN, relative_to_hu

_NAME = re.compile(r"phantom-(\d{1,4})")
_SLICES, _SIZE, _PIXEL_MM = 32, 256, 1.6


def is_phantom(name: str) -> bool:
    """Return whether a scan's name asks for a phantom: ``phantom-1``, ``phantom-2``, ..."""
    return _NAME.fullmatch(name) is not None


def phantom_scan(name: str) -> Scan:
    """Build a stack of random ellipse bodies; the number in the name is the seed.

    Name and patient are by that number: ``phantom-01`` is ``phantom-1``.

    Raises
    ------
    ScanError
        When the name is not ``phantom-`` and a number.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ScanError(f"{name}: is no phantom; write phantom-1, phantom-2, ...")
    number = int(match[1])
    grid = ImageGrid(_SIZE, _SIZE, _PIXEL_MM)
    slices = []
    for index in range(_SLICES):
        body = abdomen_like(generator(number, "phantom", index))
        slices.append(relative_to_hu(ellipse_image(body, grid, supersampling=2)[0, 0].numpy()))
    hu = np.stack(slices).clip(HU_MIN, HU_MAX).astype(np.float32)
    provenance = {"source": "analytic ellipses", "licence": "Apache-2.0"}
    patient = f"phantom-{number}"
    return Scan(hu, (5.0, _PIXEL_MM, _PIXEL_MM), patient, patient, provenance)
