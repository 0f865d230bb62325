"""Scan and protocol in, paired data out: simulated low-dose projections and their truth.

No inverse crime is committed: the object is sampled on a grid ``oversampling`` times finer than
the one that will be reconstructed, and each detector bin is the mean of ``oversampling`` rays.
Line integrals are averaged, not intensities: the non-linear partial-volume effect of averaging
intensities within a bin is left out. What lies outside the protocol's grid is taken as air.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedm2ct.data.resample import slices_on_grid
from fedm2ct.data.scans import Scan
from fedm2ct.device import compute_device
from fedm2ct.physics.geometry import Geometry
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM, hu_to_relative

__all__ = ["Measurements", "PairedData", "simulate", "slices_on_grid"]

_SLICES_AT_ONCE = 4


@dataclass(frozen=True)
class Measurements:
    """What was measured, and nothing else: all that a site without normal-dose images has.

    Attributes
    ----------
    projections
        Noisy line integrals (dimensionless), shape ``(n, 1, views, bins)``.
    """

    projections: torch.Tensor

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.projections)


@dataclass(frozen=True)
class PairedData(Measurements):
    """Simulated projections and the images they were made from.

    Attributes
    ----------
    truth
        Relative attenuation on the protocol's grid, shape ``(n, 1, rows, columns)``.
    clean
        Line integrals without noise, shape of ``projections``.
    """

    truth: torch.Tensor
    clean: torch.Tensor

    def __getitem__(self, chosen: slice) -> "PairedData":
        """Return some of the pairs."""
        return PairedData(self.projections[chosen], self.truth[chosen], self.clean[chosen])

    @classmethod
    def joined(cls, parts: "Sequence[PairedData]") -> "PairedData":
        """Return the pairs of several, one after the other; all of one protocol."""
        return cls(
            torch.cat([part.projections for part in parts]),
            torch.cat([part.truth for part in parts]),
            torch.cat([part.clean for part in parts]),
        )


def simulate(
    scan: Scan,
    slices: Sequence[int],
    protocol: Protocol,
    generator: torch.Generator,
    oversampling: int = 2,
) -> PairedData:
    """Simulate a protocol's acquisition of axial slices.

    Parameters
    ----------
    scan
        A normal-dose scan.
    slices
        Indices of its slices.
    protocol
        Geometry, reconstruction grid and dose.
    generator
        Source of the noise.
    oversampling
        Finer sampling of object and detector; 1 commits the inverse crime.

    Returns
    -------
    Float32 tensors; the truth is the mean of the object over each pixel.

    Raises
    ------
    ScanError
        If a slice is outside the scan.
    """
    if oversampling < 1:
        raise ValueError("simulate: oversampling must be at least 1")
    grid = protocol.grid
    fine_hu = slices_on_grid(
        scan, grid.refined(oversampling), slices, interpolant_pixel_mm=grid.pixel_mm
    )
    fine = hu_to_relative(fine_hu)
    clean = project_finely(fine, protocol, oversampling)
    noisy = add_dose_noise(clean, protocol.photons, protocol.electronic_noise, generator)
    truth = torch.nn.functional.avg_pool2d(fine, oversampling)
    return PairedData(noisy, truth, clean)


def project_finely(fine: torch.Tensor, protocol: Protocol, oversampling: int) -> torch.Tensor:
    """Line integrals, without noise, of objects on the refined grid.

    Parameters
    ----------
    fine
        Relative attenuation on ``protocol.grid.refined(oversampling)``, shape ``(n, 1, R, C)``.
    protocol
        Geometry and grid.
    oversampling
        Rays per detector bin and pixels per pixel, along each axis.

    Returns
    -------
    Dimensionless, float32, shape ``(n, 1, views, bins)``.
    """
    geometry = _refined_detector(protocol.geometry, oversampling)
    projector = Projector(geometry, protocol.grid.refined(oversampling))
    parts = []
    with torch.no_grad():
        for part in torch.split(fine, _SLICES_AT_ONCE):
            rays: torch.Tensor = projector(part.to(compute_device())) * MU_WATER_PER_MM
            binned = rays.reshape(*rays.shape[:-1], -1, oversampling).mean(-1)
            parts.append(binned.to(fine.device))
    return torch.cat(parts)


def _refined_detector(geometry: Geometry, factor: int) -> Geometry:
    return replace(
        geometry,
        n_bins=geometry.n_bins * factor,
        detector_pitch_mm=geometry.detector_pitch_mm / factor,
    )
