"""Over the rounds of training: curves of validation PSNR, and what was sent."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedm2ct.report.style import label, look, ordered

History = Sequence[dict[str, Any]]
Curve = dict[int, float]

_KEY_ENTRY_IN = 1.75

SERVER = "server"
"""What the history calls the server's own entries."""


def _finite(entry: dict[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def validation_curves(history: History) -> dict[str, dict[str, Curve]]:
    """Return validation PSNR in dB by method, site and round, averaged over seeds.

    What a site reaches with the last download, at the end, comes one round after the last.
    """
    values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for entry in history:
        value = _finite(entry, "val_psnr_db")
        if value is not None and entry.get("site", SERVER) != SERVER:
            index = int(entry["round"]) + (entry.get("event") == "finish")
            values[str(entry["method"]), str(entry["site"]), index].append(value)
    curves: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(dict))
    for (method, site, index), found in sorted(values.items()):
        curves[method][site][index] = sum(found) / len(found)
    return {method: dict(sites) for method, sites in curves.items()}


def mean_over_sites(sites: dict[str, Curve]) -> Curve:
    """Return the mean curve, at the rounds that every site has reported."""
    if not sites:
        return {}
    common = set.intersection(*(set(curve) for curve in sites.values()))
    return {r: sum(curve[r] for curve in sites.values()) / len(sites) for r in sorted(common)}


def bytes_per_round(history: History, key: str) -> dict[str, Curve]:
    """Return ``key`` (``bytes_up`` or ``bytes_down``) by method and round.

    Summed over the sites, averaged over seeds; the server's own entries do not count, as every
    byte is listed at a site already.
    """
    sums: dict[tuple[str, int], float] = defaultdict(float)
    seeds: dict[str, set[Any]] = defaultdict(set)
    for entry in history:
        value = _finite(entry, key)
        if value is not None and entry.get("site", SERVER) != SERVER:
            sums[str(entry["method"]), int(entry["round"])] += value
            seeds[str(entry["method"])].add(entry.get("seed"))
    result: dict[str, Curve] = defaultdict(dict)
    for (method, index), total in sorted(sums.items()):
        result[method][index] = total / len(seeds[method])
    return dict(result)


def _draw(axes: Axes, curves: dict[str, Curve], title: str) -> None:
    for method in ordered(curves):
        drawn = look(method, curves)
        rounds = list(curves[method])
        axes.plot(
            rounds, list(curves[method].values()), color=drawn.colour, linestyle=drawn.line,
            linewidth=drawn.width, marker=drawn.marker, markersize=3 + drawn.width,
            markevery=max(1, len(rounds) // 6), label=label(method), zorder=1 + drawn.width,
        )  # fmt: skip
    axes.set_title(title, fontsize=10.5, fontweight="bold")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.tick_params(labelsize=8.5)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_xlabel("round", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def learning_figure(history: History, sites: Sequence[str]) -> Figure | None:
    """Draw validation PSNR per round: mean over sites at the left, then every site.

    All panels but the first share one scale. None when the history holds no validation PSNR.
    """
    curves = validation_curves(history)
    shown = [site for site in sites if any(site in found for found in curves.values())]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    width = 4.6 + 2.35 * columns
    across = int(width / _KEY_ENTRY_IN)
    key = 0.36 + 0.2 * math.ceil(len(curves) / across)
    size = (width, max(3.4, 2.6 * rows) + key)
    figure = Figure(figsize=size, layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[size[1] - key, key])
    above, below = halves.ravel()
    parts = above.subfigures(1, 2, squeeze=False, width_ratios=[4.6, 2.35 * columns])
    left, right = parts.ravel()
    axes = left.subplots()
    _draw(axes, {m: mean_over_sites(found) for m, found in curves.items()}, "Mean over sites")
    axes.set_ylabel("validation PSNR, dB", fontsize=9)
    below.legend(
        *axes.get_legend_handles_labels(), loc="center", ncols=across, fontsize=9,
        frameon=False, handlelength=3.5,
    )  # fmt: skip
    panels = right.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, site in zip(panels, shown, strict=False):
        _draw(panel, {m: found[site] for m, found in curves.items() if site in found}, site)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    return figure
