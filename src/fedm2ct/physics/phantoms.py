"""Phantoms of ellipses: their line integrals are exact in any geometry."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.rays import ray_lines
from fedm2ct.units import MU_WATER_PER_MM


@dataclass(frozen=True)
class Ellipse:
    """A filled ellipse that adds ``value`` (relative attenuation) to what lies below it.

    ``x_mm`` and ``y_mm`` are its centre, ``a_mm`` and ``b_mm`` its half axes, ``angle_rad`` the
    counter-clockwise angle of the first axis from the x axis.
    """

    x_mm: float
    y_mm: float
    a_mm: float
    b_mm: float
    angle_rad: float
    value: float

    def __post_init__(self) -> None:
        """Refuse empty ellipses."""
        if not (self.a_mm > 0 and self.b_mm > 0):
            raise ValueError("Ellipse: a_mm and b_mm must be positive")


def ellipse_sinogram(ellipses: Sequence[Ellipse], geometry: Geometry) -> Tensor:
    """Return the exact, dimensionless line integrals of ellipses.

    Returns
    -------
    Tensor
        Shape ``(1, 1, views, bins)``, float64, already multiplied by `MU_WATER_PER_MM`.
    """
    angles, offsets = ray_lines(geometry)
    total = np.zeros(geometry.shape)
    for e in ellipses:
        mx, my = -np.sin(angles), np.cos(angles)
        distance = offsets - (mx * e.x_mm + my * e.y_mm)
        c, s = np.cos(e.angle_rad), np.sin(e.angle_rad)
        reach2 = (e.a_mm * (mx * c + my * s)) ** 2 + (e.b_mm * (my * c - mx * s)) ** 2
        half = np.sqrt(np.maximum(reach2 - distance**2, 0.0))
        total += 2 * e.value * e.a_mm * e.b_mm * half / reach2
    return torch.from_numpy(total * MU_WATER_PER_MM)[None, None]


def ellipse_image(ellipses: Sequence[Ellipse], grid: ImageGrid, supersampling: int = 4) -> Tensor:
    """Rasterise ellipses, averaging ``supersampling x supersampling`` points per pixel.

    Returns
    -------
    Tensor
        Relative attenuation, shape ``(1, 1, rows, columns)``, float64.
    """
    fine = grid.refined(supersampling)
    x = (np.arange(fine.columns) - (fine.columns - 1) / 2) * fine.pixel_mm
    y = ((fine.rows - 1) / 2 - np.arange(fine.rows))[:, None] * fine.pixel_mm
    total = np.zeros(fine.shape)
    for e in ellipses:
        c, s = np.cos(e.angle_rad), np.sin(e.angle_rad)
        u = ((x - e.x_mm) * c + (y - e.y_mm) * s) / e.a_mm
        v = ((y - e.y_mm) * c - (x - e.x_mm) * s) / e.b_mm
        total += e.value * (u**2 + v**2 <= 1)
    blocks = total.reshape(grid.rows, supersampling, grid.columns, supersampling)
    return torch.from_numpy(blocks.mean(axis=(1, 3)))[None, None]


def water_disc(radius_mm: float, x_mm: float = 0.0, y_mm: float = 0.0) -> list[Ellipse]:
    """Return a disc of water."""
    return [Ellipse(x_mm, y_mm, radius_mm, radius_mm, 0.0, 1.0)]


_SHEPP_LOGAN = (  # half axes, centre, degrees, value; in units of half the head's height
    (0.69, 0.92, 0.0, 0.0, 0.0, 2.0),
    (0.6624, 0.874, 0.0, -0.0184, 0.0, -0.98),
    (0.11, 0.31, 0.22, 0.0, -18.0, -0.02),
    (0.16, 0.41, -0.22, 0.0, 18.0, -0.02),
    (0.21, 0.25, 0.0, 0.35, 0.0, 0.01),
    (0.046, 0.046, 0.0, 0.1, 0.0, 0.01),
    (0.046, 0.046, 0.0, -0.1, 0.0, 0.01),
    (0.046, 0.023, -0.08, -0.605, 0.0, 0.01),
    (0.023, 0.023, 0.0, -0.606, 0.0, 0.01),
    (0.023, 0.046, 0.06, -0.605, 0.0, 0.01),
)


def shepp_logan(scale_mm: float = 100.0) -> list[Ellipse]:
    """Return the head phantom in its original contrast (brain 1.02, skull 2).

    Shepp and Logan, "The Fourier reconstruction of a head section", doi 10.1109/TNS.1974.6499235.
    The head is ``1.38 x 1.84`` times ``scale_mm``.
    """
    return [
        Ellipse(x * scale_mm, y * scale_mm, a * scale_mm, b * scale_mm, np.deg2rad(angle), value)
        for a, b, x, y, angle, value in _SHEPP_LOGAN
    ]


def abdomen_like(generator: torch.Generator, width_mm: float = 340.0) -> list[Ellipse]:
    """Return a random body: fat, muscle, liver, spleen, kidneys, spine, aorta, gas, lesions.

    Parameters
    ----------
    generator
        The source of randomness.
    width_mm
        Mean width of the body; single bodies vary by a tenth.

    Returns
    -------
    list of Ellipse
        In relative attenuation; the whole lies within ``0.56 * width_mm`` of the isocentre.
    """

    def vary(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    a = width_mm / 2 * vary(0.9, 1.1)
    b = a * vary(0.62, 0.78)
    organs = (  # centre and half axes in units of a and b, value added to the tissue below
        ((0.0, 0.0), (1.0, 1.0), 0.90),  # skin and fat
        ((0.0, 0.03), (vary(0.86, 0.94), vary(0.80, 0.9)), 0.14),  # muscle and bowel
        ((-vary(0.36, 0.44), vary(0.1, 0.2)), (0.36, vary(0.42, 0.54)), vary(0.01, 0.06)),  # liver
        ((vary(0.52, 0.6), vary(0.0, 0.15)), (0.18, 0.30), vary(0.0, 0.06)),  # spleen
        ((-0.34, -0.48), (0.13, 0.18), vary(0.02, 0.12)),  # kidneys
        ((0.34, -0.46), (0.13, 0.18), vary(0.02, 0.12)),
        ((0.0, -0.46), (0.13, 0.19), vary(0.15, 0.3)),  # vertebral body and canal
        ((0.0, -0.72), (0.06, 0.09), vary(-0.1, 0.3)),
        ((vary(0.02, 0.08), -0.18), (0.06, 0.09), vary(0.0, 0.15)),  # aorta
        ((vary(0.15, 0.35), vary(0.45, 0.58)), (vary(0.05, 0.12), vary(0.05, 0.12)), -1.0),  # gas
    )
    body = [
        Ellipse(x * a, y * b, p * a, q * b, vary(-0.05, 0.05), value)
        for (x, y), (p, q), value in organs
    ]
    for _ in range(6):
        angle, at = vary(0.0, 2 * np.pi), vary(0.1, 0.65)
        size = vary(2.0, 9.0)
        place = (at * a * np.cos(angle), at * b * np.sin(angle))
        body.append(Ellipse(*place, size, size * vary(0.6, 1.0), angle, vary(-0.08, 0.08)))
    return body
