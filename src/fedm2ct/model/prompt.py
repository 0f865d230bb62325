"""The prompt: an acquisition protocol as numbers, and the MLP that modulates features with them.

Feature modulation ``h <- (1 + gamma(c)) h + beta(c)`` follows FiLM (Perez et al., AAAI 2018,
doi 10.1609/aaai.v32i1.11671). That FedM2CT feeds a shallow MLP with the protocol is stated in its
abstract (doi 10.34133/cbsystems.0376); the features chosen here are our own design.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedm2ct.physics.geometry import FanGeometry, Geometry
from fedm2ct.physics.protocols import Protocol

ANATOMIES = ("chest", "abdomen", "head")
KERNELS = ("soft", "standard", "sharp")


class PromptRangeWarning(UserWarning):
    """A protocol lies outside the range that prompts were designed for."""


def _bounded(name: str, value: float, centre: float, scale: float) -> float:
    """Standardise, warn when far out, and bound smoothly to (-2, 2)."""
    standard = (value - centre) / scale
    if abs(standard) > 2:
        warnings.warn(
            f"protocol: {name} = {value:.4g} is outside the usual range "
            f"[{centre - 2 * scale:.4g}, {centre + 2 * scale:.4g}]; the prompt saturates",
            PromptRangeWarning,
            stacklevel=4,
        )
    return 2 * math.tanh(standard / 2)


def _optional(value: float | None, centre: float, scale: float, name: str) -> list[float]:
    """Return the bounded value and a presence flag; zeros when the value is missing."""
    return [0.0, 0.0] if value is None else [_bounded(name, value, centre, scale), 1.0]


def _one_hot(name: str, value: str | None, known: tuple[str, ...]) -> list[float]:
    """Return one at the value's place; zeros, and a warning, when it is not known."""
    if value is not None and value not in known:
        warnings.warn(
            f"protocol: {name} {value!r} is not known to the prompt, which then sees none; "
            f"known are {', '.join(known)}",
            PromptRangeWarning,
            stacklevel=3,
        )
    return [1.0 if value == item else 0.0 for item in known]


def _arc(geometry: Geometry) -> tuple[float, float]:
    """Return the arc that the views cover (its span) and the arc's middle angle, in radians."""
    turn = 2 * math.pi
    angles = sorted(a % turn for a in geometry.angles_rad)
    following = [*angles[1:], angles[0] + turn]
    gap, after = max((b - a, b) for a, b in zip(angles, following, strict=True))
    step = (turn - gap) / max(1, len(angles) - 1)
    span = turn if gap < 1.5 * step else min(turn, turn - gap + step)
    return span, after + (turn - gap) / 2


def _geometry_features(geometry: Geometry) -> list[float]:
    span, middle = _arc(geometry)
    partial = 1 - span / (2 * math.pi)
    features = [
        _bounded("log2(views)", math.log2(geometry.n_views), 8.0, 2.0),
        _bounded("angular span / 2 pi", span / (2 * math.pi), 0.6, 0.3),
        partial * math.cos(middle),
        partial * math.sin(middle),
        _bounded("log2(bins)", math.log2(geometry.n_bins), 8.5, 1.5),
    ]
    if isinstance(geometry, FanGeometry):
        fan = float(geometry.fan_angles_rad[-1] - geometry.fan_angles_rad[0])
        pitch = geometry.detector_pitch_mm / geometry.magnification
        features += [
            _bounded("SID / mm", geometry.source_to_isocentre_mm, 550, 250),
            _bounded("SDD / mm", geometry.source_to_detector_mm, 1000, 400),
            _bounded("magnification", geometry.magnification, 1.8, 0.5),
            _bounded("fan angle / rad", fan, 0.8, 0.4),
            0.0,
            1.0 if geometry.detector == "flat" else 0.0,
            1.0 if geometry.detector == "curved" else 0.0,
        ]
    else:
        pitch = geometry.detector_pitch_mm
        features += [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    return [*features, _bounded("log2(pitch at isocentre / mm)", math.log2(pitch), 0.5, 1.5)]


def condition_vector(protocol: Protocol) -> Tensor:
    """Return the prompt phi(c) of a protocol, shape ``(features,)``, float32, bounded.

    The numbers are physical: sampling, angular span and its middle, distances, pixel size, dose,
    and, each with a presence flag, tube voltage and slice thickness; kernel and anatomy as one-hot.
    Warns (`PromptRangeWarning`) about a value outside the range that it was designed for, or a
    kernel or anatomy that it does not know.
    """
    grid = protocol.grid
    features = [
        *_geometry_features(protocol.geometry),
        _bounded("log2(pixel / mm)", math.log2(grid.pixel_mm), 0.5, 1.5),
        _bounded("log2(field of view / 400 mm)", math.log2(grid.field_of_view_mm / 400), 0, 1),
        _bounded("log10(photons)", math.log10(protocol.photons), 5, 1),
        _bounded("log10(1 + electronic noise)", math.log10(1 + protocol.electronic_noise), 1, 1),
        *_optional(protocol.tube_kvp, 110, 20, "tube voltage / kV"),
        *_optional(protocol.slice_thickness_mm, 3, 2.5, "slice thickness / mm"),
        *_one_hot("kernel", protocol.kernel, KERNELS),
        *_one_hot("anatomy", protocol.anatomy, ANATOMIES),
    ]
    return torch.tensor(features, dtype=torch.float32)


_HYPERFED_RANGES = (
    (5.0, 11.0),  # log2 of the views
    (0.0, 4.0),  # bins / 256
    (0.4, 1.3),  # pixel, mm
    (0.25, 1.55),  # detector pitch, mm
    (150.0, 550.0),  # source to isocentre, mm
    (150.0, 550.0),  # isocentre to detector, mm
    (3.5, 6.5),  # log10 of the photons
)


def hyperfed_condition(protocol: Protocol) -> Tensor:
    """Return HyperFed's condition of a protocol, shape ``(7,)``, float32.

    Views, bins, pixel, pitch, both distances and photons, each scaled to 0 to 1 over the range of
    the paper's protocols (arXiv 2206.03709 and its code). It does not see the angular span. Our
    own: a parallel beam, which the paper has not, has no distances; both are 0.
    """
    geometry = protocol.geometry
    source = detector = _HYPERFED_RANGES[4][0]
    if isinstance(geometry, FanGeometry):
        source = geometry.source_to_isocentre_mm
        detector = geometry.source_to_detector_mm - source
    values = (
        math.log2(geometry.n_views),
        geometry.n_bins / 256,
        protocol.grid.pixel_mm,
        geometry.detector_pitch_mm,
        source,
        detector,
        math.log10(protocol.photons),
    )
    scaled = [(v - a) / (b - a) for v, (a, b) in zip(values, _HYPERFED_RANGES, strict=True)]
    return torch.tensor(scaled, dtype=torch.float32)


CONDITIONS: dict[str, Callable[[Protocol], Tensor]] = {
    "protocol": condition_vector,
    "hyperfed": hyperfed_condition,
}


class PromptMLP(nn.Module):
    """Shallow MLP from a condition vector to one (gamma, beta) per modulated layer.

    Its last layer starts at zero, so that an untrained prompt changes nothing.
    """

    def __init__(self, features: int, channels: list[int], hidden: int = 64) -> None:
        super().__init__()
        self.channels = channels
        last = nn.Linear(hidden, 2 * sum(channels))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), last)

    def code(self, condition: Tensor) -> Tensor:
        """Return what the hidden layer makes of ``(..., features)``; shape ``(..., hidden)``."""
        hidden: Tensor = self.layers[:-1](condition)
        return hidden

    def forward(self, condition: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map ``(batch, features)`` to (gamma, beta) of shape ``(batch, channels, 1, 1)`` each."""
        numbers = self.layers(condition)[:, :, None, None]
        parts = numbers.split([2 * c for c in self.channels], dim=1)
        return [tuple(part.chunk(2, dim=1)) for part in parts]
