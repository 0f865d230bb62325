"""Names, groups, order and looks of the methods, one set for every table and figure of a report."""

from collections.abc import Iterable
from dataclasses import dataclass

GROUPS: dict[str, dict[str, str]] = {
    "conventional": {"fbp": "FBP", "sirt": "SIRT", "tv": "TV"},
    "local": {"local": "Local only", "local_public": "Local + public"},
    "federated": {
        "fedavg": "FedAvg",
        "fedavg_cross": "FedAvg, cross-protocol",
        "fedper": "FedPer",
        "fedprox": "FedProx",
        "fednova": "FedNova",
        "scaffold": "SCAFFOLD",
        "feddyn": "FedDyn",
        "moon": "MOON",
        "fedrep": "FedRep",
        "ditto": "Ditto",
        "finetuned": "FedAvg, fine-tuned",
        "fml": "FML",
        "fedkd": "FedKD",
        "fedmri": "FedMRI",
        "hyperfed": "HyperFed",
        "fedfdd": "FedFDD",
        "fedct": "FedCT",
        "scanphysfed": "SCAN-PhysFed",
        "sc3fl": "3SC-FL",
    },
    "own": {"fedm2ct": "FedM2CT"},
    "reference": {"pooled_plain": "Pooled", "pooled": "Pooled, prompted"},
}
"""Names to print by group, in the order of printing; other methods follow, by name.

The references are no federation: the patients' images leave their sites.
"""

OTHER = "other"
"""The group of a method that is in none."""

LABELS = {name: text for members in GROUPS.values() for name, text in members.items()}
_GROUP_OF = {name: group for group, members in GROUPS.items() for name in members}

CONVENTIONAL_METHODS = tuple(GROUPS["conventional"])
REFERENCE_METHODS = tuple(GROUPS["reference"])
OWN_METHOD = "fedm2ct"

LineStyle = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How a method's curve is drawn; no two methods look alike, in colour or in grey."""

    colour: str
    line: LineStyle
    marker: str
    width: float = 1.3


# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which is
# too pale on white. Six colours do not tell 25 methods apart: line and marker do the rest.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_LINES: tuple[LineStyle, ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 1.5, 1, 1.5, 1, 1.5)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_OWN_LOOK = Look("#D55E00", "solid", "*", 2.8)


def ordered(methods: Iterable[str]) -> list[str]:
    """Sort methods into the order of printing."""
    names = set(methods)
    return [name for name in LABELS if name in names] + sorted(names - set(LABELS))


def label(method: str) -> str:
    """Return the name to print; a reference carries a star."""
    text = LABELS.get(method, method)
    return f"{text}*" if method in REFERENCE_METHODS else text


def group(method: str) -> str:
    """Return the group that a method is printed in."""
    return _GROUP_OF.get(method, OTHER)


def look(method: str, methods: Iterable[str]) -> Look:
    """Return how a method is drawn among those drawn; a known one looks the same everywhere."""
    if method == OWN_METHOD:
        return _OWN_LOOK
    known = [name for name in LABELS if name != OWN_METHOD]
    unknown = [name for name in ordered(methods) if name not in LABELS]
    number = [*known, *unknown].index(method)
    return Look(
        _COLOURS[number % len(_COLOURS)],
        _LINES[number // len(_COLOURS) % len(_LINES)],
        _MARKERS[number % len(_MARKERS)],
    )
