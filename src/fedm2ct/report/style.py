"""Names, order and colours of the methods, one set for every table and figure of a report."""

from collections.abc import Iterable

LABELS = {
    "fbp": "FBP",
    "local": "Local only",
    "local_public": "Local + public",
    "fedavg": "FedAvg",
    "fedper": "FedPer",
    "fedm2ct": "FedM2CT",
    "pooled": "Pooled",
}
"""Names to print, in the order of printing; other methods follow, by name."""

REFERENCE_METHODS = ("pooled", "pooled_plain")
"""The references that no federation may use: the patients' images leave their sites."""

# Okabe and Ito's palette: told apart by colour-blind readers, and by line style when printed grey.
LineStyle = str | tuple[int, tuple[int, ...]]

_STYLES: dict[str, tuple[str, LineStyle]] = {
    "fbp": ("#555555", (0, (1, 1))),
    "local": ("#E69F00", (0, (5, 2))),
    "fedavg": ("#0072B2", (0, (3, 1, 1, 1))),
    "fedper": ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
    "fedm2ct": ("#C03A00", "solid"),
    "pooled": ("#009E73", (0, (1, 1))),
}
_MORE = ("#CC79A7", "#000000", "#8B6914")


def ordered(methods: Iterable[str]) -> list[str]:
    """Sort methods into the order of printing."""
    names = set(methods)
    return [name for name in LABELS if name in names] + sorted(names - set(LABELS))


def label(method: str) -> str:
    """Return the name to print."""
    return LABELS.get(method, method)


def line(method: str, methods: Iterable[str]) -> tuple[str, LineStyle]:
    """Return colour and line style of a method among those drawn."""
    if method in _STYLES:
        return _STYLES[method]
    others = [name for name in ordered(methods) if name not in _STYLES]
    return _MORE[others.index(method) % len(_MORE)], "solid"
