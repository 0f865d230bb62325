"""A protocol: geometry, image grid and dose; and the warning when its detector is too short."""

import math
import warnings
from dataclasses import dataclass, replace

from fedm2ct.errors import FedM2CTError
from fedm2ct.physics.geometry import Geometry, ImageGrid


class ProtocolError(FedM2CTError):
    """A protocol that does not exist or that is not one."""


class TruncationWarning(UserWarning):
    """The detector does not see the whole object."""


@dataclass(frozen=True)
class Protocol:
    """How a site acquires: geometry, reconstruction grid and dose.

    Attributes
    ----------
    name
        Name, for logs and files.
    geometry
        The acquisition geometry.
    grid
        The grid that the site reconstructs on.
    photons
        Photons per ray without an object, ``I_0``.
    electronic_noise
        Standard deviation of the electronic noise in photon counts.
    tube_kvp, slice_thickness_mm, kernel, anatomy
        Further metadata; None where unknown.
    source
        Where the numbers come from.

    Raises
    ------
    ProtocolError
        If the dose's numbers are out of range.
    """

    name: str
    geometry: Geometry
    grid: ImageGrid
    photons: float
    electronic_noise: float
    tube_kvp: float | None = None
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    anatomy: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse impossible doses."""
        positive = {
            "photons": self.photons,
            "tube_kvp": self.tube_kvp,
            "slice_thickness_mm": self.slice_thickness_mm,
        }
        for field, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ProtocolError(f"protocol {self.name!r}: {field} must be positive")
        if self.photons < 1:
            raise ProtocolError(
                f"protocol {self.name!r}: photons is {self.photons:g}, but fewer than one a ray "
                "measure nothing; give at least 1"
            )
        if not 0 <= self.electronic_noise < math.inf:
            raise ProtocolError(
                f"protocol {self.name!r}: electronic_noise must be zero or a positive number"
            )

    def scaled(self, size: int) -> "Protocol":
        """Return the same acquisition for a ``size x size`` image of the same field of view.

        The detector keeps its length, its number of bins scales with the image; views and
        distances stay. A bin that grows by a factor (in width: the slice thickness stays) takes
        that factor of photons, and its root of electronic noise, as when neighbours are summed.
        """
        if size < 1:
            raise ProtocolError(f"protocol {self.name!r}: cannot be scaled to {size} pixels")
        side = max(self.grid.shape)
        bins = max(1, round(self.geometry.n_bins * size / side))
        growth = self.geometry.n_bins / bins
        pitch = self.geometry.detector_pitch_mm * growth
        return replace(
            self,
            geometry=replace(self.geometry, n_bins=bins, detector_pitch_mm=pitch),
            grid=ImageGrid(size, size, self.grid.field_of_view_mm / size),
            photons=self.photons * growth,
            electronic_noise=self.electronic_noise * math.sqrt(growth),
        )


def truncation_mm(protocol: Protocol, extent: ImageGrid | float | None = None) -> float:
    """Return by how many mm of radius the detector misses an object; 0 if it sees all of it.

    Parameters
    ----------
    protocol
        The protocol.
    extent
        The object's radius about the isocentre in mm, or a grid, meaning the disc inscribed in
        it; by default the protocol's own grid.
    """
    from fedm2ct.physics.redundancy import completed_detector  # needs torch: slow to import

    if extent is None:
        extent = protocol.grid
    if isinstance(extent, ImageGrid):
        extent = min(extent.shape) * extent.pixel_mm / 2
    seen, _, _ = completed_detector(protocol.geometry)  # a shifted one sees more in a full scan
    return max(0.0, extent - seen.covered_radius_mm)


def warn_if_truncated(protocol: Protocol, extent: ImageGrid | float | None = None) -> float:
    """Warn (`TruncationWarning`) if the detector misses part of an object; return by how much.

    Parameters and result are those of `truncation_mm`. Differences below a hundredth of a
    detector bin are rounding and pass.
    """
    missing = truncation_mm(protocol, extent)
    if missing > 0.01 * protocol.geometry.detector_pitch_mm:
        warnings.warn(
            f"protocol {protocol.name!r}: the detector misses the outer {missing:.1f} mm of the "
            "object's radius; values near the edge will be too high",
            TruncationWarning,
            stacklevel=2,
        )
        return missing
    return 0.0
