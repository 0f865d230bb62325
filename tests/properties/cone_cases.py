"""The cone beam's entries in the list of operators."""

import math

import numpy as np
import torch

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.cone_operators import ConeBackprojector, ConeProjector
from fedm2ct.physics.geometry import equispaced_angles

VOLUME = VolumeGrid(5, 9, 12, 2.3, 1.9, 0.7)
IRREGULAR = (0.1, 2.9, 0.1, 4.4, -1.3, math.pi / 4, math.pi / 2, 7.0)
_FLAT = ConeGeometry(equispaced_angles(6), 4, 11, 3.3, 4.1, 60.0, 110.0)
_MOVING = {
    "source_z_mm": (-3.0, 1.0, 0.5, 2.0, -1.0, 0.0, 4.0, 1.5),
    "source_angle_shift_rad": (0.02, -0.01) * 4,
    "source_radial_shift_mm": (1.0, -2.0, 0.0, 3.0) * 2,
    "source_axial_shift_mm": (0.8, 0.8, -0.8, -0.8) * 2,
}
CONES: dict[str, ConeGeometry] = {
    "flat": _FLAT,
    "flat-moving": ConeGeometry(
        IRREGULAR, 3, 10, 4.0, 4.5, 60.0, 110.0, "flat", -7.7, 2.5, **_MOVING
    ),
    "curved": ConeGeometry(equispaced_angles(6, 0.4), 4, 11, 3.3, 4.1, 60.0, 110.0, "curved"),
    "curved-moving": ConeGeometry(
        IRREGULAR, 3, 10, 4.0, 4.5, 60.0, 110.0, "curved", 7.7, -2.5, **_MOVING
    ),
    "helix": helical(_FLAT, turns=1.5, pitch=0.8),
}


def cone_operators():
    """Yield label, operator, domain and codomain of every cone-beam operator."""
    for name, geometry in CONES.items():
        volume, projections = VOLUME.shape, geometry.shape
        yield f"project-cone-{name}", ConeProjector(geometry, VOLUME), volume, projections
        shares = None
        if name == "helix":  # a view counts less the farther its source, and not at all far away
            away = np.abs(geometry.detector_z_mm[:, None] - VOLUME.z_mm)
            shares = torch.from_numpy(np.clip(1.5 - away / 3.0, 0.0, None))
        back = ConeBackprojector(geometry, VOLUME, shares)
        yield f"backproject-cone-{name}", back, projections, volume
