"""Angular steps and redundancy: how much each view, and each ray, counts in a reconstruction.

Nothing here assumes equal steps: a geometry is a set of view angles on the circle. The largest
gap between neighbours decides whether the scan is full (no gap stands out) or an arc.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, Geometry

_TURN = 2 * np.pi
_GAP = 2.5
"""An arc's gap exceeds the mean of the other gaps by this factor."""


def angular_steps(geometry: Geometry) -> tuple[NDArray[np.float64], bool]:
    """Return each view's angular step and whether the scan goes all around.

    A view's step is half the gaps to its two neighbours on the circle. On an arc, the outer half
    step of the first and last view equals their inner one, so that ``n`` equal steps of ``d``
    cover ``n * d``.

    Returns
    -------
    steps, full
        Steps in radians, shape ``(views,)``; True for a full scan.
    """
    steps, full, _, _ = _arc(geometry)
    return steps, full


def _arc(geometry: Geometry) -> tuple[NDArray[np.float64], bool, float, float]:
    """Return steps, full scan or not, and the arc's start angle and span in radians."""
    angles = np.mod(geometry.angles, _TURN)
    n = len(angles)
    if n == 1:
        return np.full(1, np.pi), False, float(angles[0]) - np.pi / 2, np.pi
    order = np.argsort(angles, kind="stable")
    ordered = angles[order]
    gaps = np.diff(ordered, append=ordered[0] + _TURN)  # gap i: from view i to the next
    last = int(np.argmax(gaps))
    others = (_TURN - gaps[last]) / (n - 1)
    full = n > 2 and bool(gaps[last] <= _GAP * others)
    before = np.roll(gaps, 1)
    after = gaps.copy()
    first = (last + 1) % n
    if not full:
        after[last] = before[last]
        before[first] = gaps[first]
    steps = np.empty(n)
    steps[order] = (before + after) / 2
    start = float(ordered[first] - before[first] / 2)
    return steps, full, start, float(steps.sum())


def redundancy_weights(geometry: Geometry) -> Tensor:
    r"""Return the weights before the filter that make every line count once.

    On an arc, the ray of view :math:`\beta` and fan angle :math:`\gamma` is measured again by view
    :math:`\beta + \pi - 2\gamma` if that lies on the arc. The two share the line by

    .. math:: w(\beta, \gamma) = c(\beta) / (c(\beta) + \sum c(\beta_{conjugate}))

    where ``c`` rises smoothly from 0 at the arc's ends: smooth weights as Parker's, for any span
    (Noo et al., doi 10.1088/0031-9155/47/14/311). Lines measured once have weight 1, so short
    scans are exact and limited-angle scans use everything they have. Full scans have 1
    everywhere (their factor one half is in the view weights), unless the detector is shifted by
    more than a bin: then bins without a mirror image count twice, with a smooth transition
    (Wang, doi 10.1118/1.1489043).

    Returns
    -------
    Tensor
        Shape ``(views, bins)``, float64.
    """
    _, full, start, span = _arc(geometry)
    if full:
        return torch.from_numpy(_shifted_detector(geometry))
    gamma = np.zeros(geometry.n_bins)
    if isinstance(geometry, FanGeometry):
        gamma = geometry.fan_angles_rad
    taper = min(span / 2, max((span - np.pi) / 2, np.deg2rad(10.0)))
    beta = np.broadcast_to(geometry.angles[:, None], geometry.shape)
    own = np.maximum(_rise(beta, start, span, taper), 1e-12)  # never 0 / 0
    conjugate = _rise(beta + np.pi - 2 * gamma, start, span, taper)
    return torch.from_numpy(own / (own + conjugate))


def _rise(
    angle: NDArray[np.float64], start: float, span: float, taper: float
) -> NDArray[np.float64]:
    """Return 1 on the arc, falling as sin^2 over ``taper`` to 0 at its ends and beyond."""
    inside = np.mod(angle - start, _TURN)
    edge = np.minimum(inside, span - inside)
    return np.asarray(np.sin(np.pi / 2 * np.clip(edge / taper, 0.0, 1.0)) ** 2)


def _shifted_detector(geometry: Geometry) -> NDArray[np.float64]:
    shift, bins = geometry.detector_offset_mm, geometry.bins_mm
    if abs(shift) <= geometry.detector_pitch_mm:
        return np.ones(geometry.shape)
    if bins[0] >= 0 or bins[-1] <= 0:
        raise ValueError("detector_offset_mm: the detector must not miss the central ray")
    at = geometry.fan_angles_rad if isinstance(geometry, FanGeometry) else bins
    short = float(min(-at[0], at[-1]))
    ratio = np.clip(np.sign(shift) * at / short, -1.0, 1.0)
    return np.broadcast_to(1.0 + np.sin(np.pi / 2 * ratio), geometry.shape).copy()


def completed_detector(geometry: Geometry) -> tuple[Geometry, int, int]:
    """Make the detector of a shifted full scan symmetric again by adding empty bins.

    Filtering spreads the data beyond a shifted detector's short end, and back-projection needs
    what lands there. Other scans come back as they are.

    Returns
    -------
    geometry, left, right
        The completed geometry, and how many bins were added before and after the others.
    """
    shift, pitch = geometry.detector_offset_mm, geometry.detector_pitch_mm
    if abs(shift) <= pitch or not angular_steps(geometry)[1]:
        return geometry, 0, 0
    extra = round(2 * abs(shift) / pitch)
    left, right = (extra, 0) if shift > 0 else (0, extra)
    completed = replace(
        geometry,
        n_bins=geometry.n_bins + extra,
        detector_offset_mm=shift + (right - left) * pitch / 2,
    )
    return completed, left, right
