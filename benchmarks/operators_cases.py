"""What is measured: acquisitions, a phantom with exact line integrals, and what is right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.geometry import (
    FanGeometry,
    Geometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.phantoms import Ellipse, abdomen_like, ellipse_image, ellipse_sinogram
from fedm2ct.units import MU_WATER_PER_MM

OPERATIONS = ("forward", "adjoint", "backproject", "fbp")
_SID_MM, _SDD_MM, _PITCH_MM, _FIELD_MM = 595.0, 1085.6, 1.2858, 460.8
_PHANTOM_WIDTH_MM = 400.0


@dataclass(frozen=True)
class Setup:
    """An acquisition and the image it is of."""

    name: str
    geometry: Geometry
    grid: ImageGrid

    @property
    def title(self) -> str:
        """Sizes in words."""
        beam = "parallel beam" if isinstance(self.geometry, ParallelGeometry) else "fan beam, flat"
        views, bins = self.geometry.shape
        return f"{beam}, {self.grid.rows} x {self.grid.columns} pixels, {views} views x {bins} bins"


def _fan(name: str, pixels: int, views: int, coarser: int) -> Setup:
    bins = 736 // coarser
    geometry = FanGeometry(equispaced_angles(views), bins, _PITCH_MM * coarser, _SID_MM, _SDD_MM)
    return Setup(name, geometry, ImageGrid(pixels, pixels, _FIELD_MM / pixels))


def _parallel(name: str, pixels: int, views: int, bins: int) -> Setup:
    geometry = ParallelGeometry(equispaced_angles(views, math.pi), bins, _FIELD_MM / bins)
    return Setup(name, geometry, ImageGrid(pixels, pixels, _FIELD_MM / pixels))


SETUPS = {
    setup.name: setup
    for setup in (
        _fan("tiny", 32, 24, 16),
        _fan("small", 128, 180, 4),
        _fan("big", 512, 1000, 1),
        _parallel("parallel", 512, 1000, 736),
    )
}
"""`tiny` is for tests; the others are what the page shows."""


def without_symmetry(setup: Setup) -> Setup:
    """Move every view by up to a quarter of a step, so that no two are mirror images."""
    angles = setup.geometry.angles
    moves = np.random.default_rng(0).uniform(-0.25, 0.25, len(angles)) * (angles[1] - angles[0])
    geometry = replace(setup.geometry, angles_rad=tuple(angles + moves))
    return replace(setup, geometry=geometry)


def phantom() -> list[Ellipse]:
    """Return the body that forward projections and reconstructions are checked with."""
    return abdomen_like(torch.Generator().manual_seed(0), _PHANTOM_WIDTH_MM)


def phantom_image(setup: Setup) -> Tensor:
    """Return the body's pixel means, ``(1, 1, rows, columns)`` float32."""
    return ellipse_image(phantom(), setup.grid, 4).float()


def line_integrals(geometry: Geometry) -> Tensor:
    """Return the body's exact integrals along the bins' central rays in mm, float64."""
    return ellipse_sinogram(phantom(), geometry) / MU_WATER_PER_MM


def bin_means(geometry: Geometry, rays: int = 4) -> Tensor:
    """Return the mean over each bin of the body's exact line integrals in mm, float64."""
    fine = replace(
        geometry, n_bins=geometry.n_bins * rays, detector_pitch_mm=geometry.detector_pitch_mm / rays
    )
    exact = line_integrals(fine)
    return exact.reshape(*exact.shape[:-1], geometry.n_bins, rays).mean(dim=-1)


def random_pair(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    """Return a random image and a random sinogram, float32, uniform on [0, 1)."""
    generator = torch.Generator().manual_seed(batch)
    image = torch.rand(batch, 1, *setup.grid.shape, generator=generator)
    return image, torch.rand(batch, 1, *setup.geometry.shape, generator=generator)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return ``|found - expected| / |expected|``, summed in float64."""
    expected = expected.double()
    return float((found.double() - expected).norm() / expected.norm())


def adjoint_mismatch(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> float:
    """Return ``|<Ax, y> - <x, A'y>| / (|Ax| |y|)``, summed in float64."""
    x, y, of_x, of_y = (t.double().flatten() for t in (x, y, of_x, of_y))
    return float((of_x @ y - x @ of_y).abs() / (of_x.norm() * y.norm()))


def covered_pixels(setup: Setup) -> NDArray[np.bool_]:
    """Return where the pixels are that every view sees whole, shape ``(rows, columns)``."""
    x, y = pixel_coordinates(setup.grid)
    radius = min(setup.geometry.covered_radius_mm, setup.grid.field_of_view_mm / 2)
    inside: NDArray[np.bool_] = x[None, :] ** 2 + y[:, None] ** 2 < (0.98 * radius) ** 2
    return inside


def pixel_coordinates(grid: ImageGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the x of every column and the y of every row in mm."""
    x = (np.arange(grid.columns) - (grid.columns - 1) / 2) * grid.pixel_mm
    y = ((grid.rows - 1) / 2 - np.arange(grid.rows)) * grid.pixel_mm
    return x, y


def backprojection_error(found: Tensor, sinogram: Tensor, setup: Setup, points: int = 300) -> float:
    """Compare a pixel-driven back-projection with its definition at random pixels, in float64.

    A pixel sums ``sinogram(u) (SID / U)^2`` over the views, interpolated linearly between bins;
    parallel beams have no distance weight. See `fedm2ct.physics.geometry` for the symbols.
    """
    rows, columns = np.nonzero(covered_pixels(setup))
    chosen = np.random.default_rng(1).choice(len(rows), min(points, len(rows)), replace=False)
    rows, columns = rows[chosen], columns[chosen]
    grid_x, grid_y = pixel_coordinates(setup.grid)
    x, y, geometry = grid_x[columns], grid_y[rows], setup.geometry
    expected = np.zeros(len(rows))
    for view, angle in enumerate(geometry.angles):
        u, weight = y * np.cos(angle) - x * np.sin(angle), np.ones(len(rows))
        if isinstance(geometry, FanGeometry):
            depth = _SID_MM - x * np.cos(angle) - y * np.sin(angle)
            u, weight = u * _SDD_MM / depth, (_SID_MM / depth) ** 2
        expected += weight * np.interp(u, geometry.bins_mm, sinogram[0, 0, view].double().numpy())
    return relative_error(found[0, 0][rows, columns], torch.from_numpy(expected))


def reconstruction_error(found: Tensor, setup: Setup) -> float:
    """Return the relative error of a reconstruction of the phantom where all views see it."""
    inside = torch.from_numpy(covered_pixels(setup))
    return relative_error(found[0, 0][inside], phantom_image(setup)[0, 0][inside])


def cases(batches: Sequence[int], threads: Sequence[int]) -> list[dict[str, Any]]:
    """Return the combinations that one process measures, in its order."""
    return [{"batch": b, "threads": t} for b in batches for t in threads]
