"""Phantoms of ellipsoids: their line integrals are exact in any cone-beam geometry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.units import MU_WATER_PER_MM

Array = NDArray[Any]


@dataclass(frozen=True)
class Ellipsoid:
    """A filled ellipsoid that adds ``value`` (relative attenuation) to what lies below it.

    ``x_mm``, ``y_mm``, ``z_mm`` are its centre, ``a_mm``, ``b_mm``, ``c_mm`` its half axes,
    ``angle_rad`` the counter-clockwise angle of the first axis from the x axis; the third axis is
    along z.
    """

    x_mm: float
    y_mm: float
    z_mm: float
    a_mm: float
    b_mm: float
    c_mm: float
    angle_rad: float
    value: float

    def __post_init__(self) -> None:
        """Refuse empty ellipsoids."""
        if not min(self.a_mm, self.b_mm, self.c_mm) > 0:
            raise ValueError("Ellipsoid: a_mm, b_mm and c_mm must be positive")

    def to_unit_ball(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Map directions in mm to where the ellipsoid is the unit ball."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        return (x * c + y * s) / self.a_mm, (y * c - x * s) / self.b_mm, z / self.c_mm


def ball(
    radius_mm: float, x_mm: float = 0.0, y_mm: float = 0.0, z_mm: float = 0.0, value: float = 1.0
) -> Ellipsoid:
    """Return a ball, of water if no value is given."""
    return Ellipsoid(x_mm, y_mm, z_mm, radius_mm, radius_mm, radius_mm, 0.0, value)


def ellipsoid_projections(ellipsoids: Sequence[Ellipsoid], geometry: ConeGeometry) -> Tensor:
    """Return the exact, dimensionless line integrals of ellipsoids.

    Returns
    -------
    Tensor
        Shape ``(views, detector rows, detector columns)``, float64, already multiplied by
        `MU_WATER_PER_MM`.
    """
    cos, sin = np.cos(geometry.angles)[:, None, None], np.sin(geometry.angles)[:, None, None]
    ahead, aside = (side[:, None, None] for side in geometry.in_plane.sources_mm)
    along, across = geometry.elements_mm
    along, across = along - ahead, across - aside
    height = (geometry.detector_z_mm[:, None] + geometry.rows_mm)[:, :, None]
    focus_z = geometry.focus_z_mm[:, None, None]
    ray = along * cos - across * sin, along * sin + across * cos, height - focus_z
    length = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    source = ahead * cos - aside * sin, ahead * sin + aside * cos, focus_z
    total = np.zeros(geometry.shape)
    for e in ellipsoids:
        place = e.x_mm, e.y_mm, e.z_mm
        start = e.to_unit_ball(*(s - p for s, p in zip(source, place, strict=True)))
        way = e.to_unit_ball(*ray)
        way2 = sum(w * w for w in way)
        nearest = sum(s * w for s, w in zip(start, way, strict=True)) / way2
        distance2 = sum((s - nearest * w) ** 2 for s, w in zip(start, way, strict=True))
        total += 2 * e.value * length * np.sqrt(np.maximum(1 - distance2, 0) / way2)
    return torch.from_numpy(total * MU_WATER_PER_MM)


def ellipsoid_volume(
    ellipsoids: Sequence[Ellipsoid], grid: VolumeGrid, supersampling: int = 2
) -> Tensor:
    """Rasterise ellipsoids, averaging ``supersampling`` points per voxel along each axis.

    Returns
    -------
    Tensor
        Relative attenuation, shape ``(slices, rows, columns)``, float64.
    """
    fine = grid.refined(supersampling)
    x = (np.arange(fine.columns) - (fine.columns - 1) / 2) * fine.pixel_mm
    y = ((fine.rows - 1) / 2 - np.arange(fine.rows))[:, None] * fine.pixel_mm
    total = np.zeros(grid.shape)
    for layer, z in enumerate(fine.z_mm):
        values = np.zeros(fine.plane.shape)
        for e in ellipsoids:
            if abs(z - e.z_mm) < e.c_mm:
                u, v, w = e.to_unit_ball(x - e.x_mm, y - e.y_mm, np.asarray(z - e.z_mm))
                values += e.value * (u**2 + v**2 + w**2 <= 1)
        blocks = values.reshape(grid.rows, supersampling, grid.columns, supersampling)
        total[layer // supersampling] += blocks.mean(axis=(1, 3)) / supersampling
    return torch.from_numpy(total)
