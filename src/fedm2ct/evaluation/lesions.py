"""Planted lesions: where a slice has room for them, and how much of their contrast an image shows.

Arrays in, numbers out, all in HU and ``(rows, columns)``; who planted them does not matter.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from fedm2ct.evaluation.metrics import body_mask

FloatArray = NDArray[np.float64]

SOFT_TISSUE_HU = (-150.0, 200.0)
"""What must surround a lesion, out to the far edge of its ring: neither lung, gas nor bone."""

_GAP_PIXELS, _RING_PIXELS, _RING_MM = 1.5, 2.0, 4.0


@dataclass(frozen=True)
class Probe:
    """Where a lesion's contrast is read.

    Attributes
    ----------
    disc
        Weight of each pixel in the lesion's mean: how much of the pixel it covers.
    ring
        The pixels of the background.
    """

    disc: FloatArray
    ring: NDArray[np.bool_]

    def contrast(self, image_hu: ArrayLike) -> float:
        """Return the weighted mean in the disc minus the mean in the ring, in HU."""
        image = np.asarray(image_hu, dtype=np.float64)
        return float((self.disc * image).sum() / self.disc.sum() - image[self.ring].mean())


def ring_mm(diameter_mm: float, pixel_mm: float) -> tuple[float, float]:
    """Return the inner and outer radius in mm of the background's ring about a lesion.

    It leaves a pixel and a half for the lesion's blurred edge, and is 4 mm or two pixels wide.
    """
    inner = diameter_mm / 2 + _GAP_PIXELS * pixel_mm
    return inner, inner + max(_RING_MM, _RING_PIXELS * pixel_mm)


def probe(disc: ArrayLike, x_mm: float, y_mm: float, diameter_mm: float, pixel_mm: float) -> Probe:
    """Return the probe of a lesion.

    Parameters
    ----------
    disc
        How much of each pixel the lesion covers, shape ``(rows, columns)``.
    x_mm, y_mm
        Its centre from the image's centre, x to the right and y up.
    diameter_mm, pixel_mm
        Its diameter and a pixel's side.
    """
    coverage = np.asarray(disc, dtype=np.float64)
    x, y = _positions_mm(coverage.shape, pixel_mm)
    distance = np.hypot(x - x_mm, y - y_mm)
    inner, outer = ring_mm(diameter_mm, pixel_mm)
    return Probe(coverage, (distance >= inner) & (distance <= outer))


def places_mm(
    truth_hu: ArrayLike, pixel_mm: float, reach_mm: float, count: int, within_mm: float
) -> list[tuple[float, float]]:
    """Return where lesions may be planted in a slice, the most even soft tissue first.

    Deterministic: of the pixels about which all within `reach_mm` is soft tissue of the body, the
    one with the least standard deviation is taken, then the next that is at least twice `reach_mm`
    from those taken.

    Parameters
    ----------
    truth_hu
        The slice.
    pixel_mm
        A pixel's side.
    reach_mm
        Radius about a lesion's centre that it claims, its ring included.
    count
        At most so many places.
    within_mm
        Radius about the image's centre that a place, with its reach, must lie in.

    Returns
    -------
    Centres ``(x_mm, y_mm)``, x to the right and y up; fewer than `count` where there is no room.
    """
    image = np.asarray(truth_hu, dtype=np.float64)
    low, high = SOFT_TISSUE_HU
    soft = body_mask(image) & (image >= low) & (image <= high)
    room: FloatArray = ndimage.distance_transform_edt(soft) * pixel_mm
    x, y = _positions_mm(image.shape, pixel_mm)
    free = (room > reach_mm) & (np.hypot(x, y) + reach_mm <= within_mm)
    side = max(3, round(math.sqrt(2) * reach_mm / pixel_mm))  # the square within the reach
    mean, square = (ndimage.uniform_filter(values, side) for values in (image, image**2))
    unrest = np.where(free, square - mean**2, np.inf)
    found: list[tuple[float, float]] = []
    while len(found) < count and np.isfinite(unrest).any():
        at = np.unravel_index(int(unrest.argmin()), unrest.shape)
        here = float(x[at]), float(y[at])
        found.append(here)
        unrest[np.hypot(x - here[0], y - here[1]) < 2 * reach_mm] = np.inf
    return found


def recovered(
    lesion: Probe,
    image_with: ArrayLike,
    image_without: ArrayLike,
    truth_with: ArrayLike,
    truth_without: ArrayLike,
) -> tuple[float, float]:
    """Return how much of a lesion's contrast a reconstruction shows, in two ways; 1 is all of it.

    The *difference* of the reconstructions with and without the lesion, of the same noise, leaves
    only what the method makes of the lesion. The *direct* contrast is that of the image with the
    lesion, less what the anatomy itself has there: what a reader sees, noise and streaks included.

    Parameters
    ----------
    lesion
        Its probe.
    image_with, image_without
        Reconstructions.
    truth_with, truth_without
        Truths; their difference is what was planted.
    """
    without = lesion.contrast(truth_without)
    planted = lesion.contrast(truth_with) - without
    shown = lesion.contrast(image_with)
    difference = (shown - lesion.contrast(image_without)) / planted
    return difference, (shown - without) / planted


def _positions_mm(shape: tuple[int, ...], pixel_mm: float) -> tuple[FloatArray, FloatArray]:
    """Return each pixel's centre, as two arrays of the image's shape."""
    rows, columns = shape
    x = (np.arange(columns) - (columns - 1) / 2) * pixel_mm
    y = ((rows - 1) / 2 - np.arange(rows)) * pixel_mm
    across, up = np.meshgrid(x, y)
    return across, up
