"""The tables of a report, as texts ready to print: numbers rounded once, here."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedm2ct.report.curves import History, bytes_per_round
from fedm2ct.report.style import OWN_METHOD, REFERENCE_METHODS, group, label, ordered

MISSING = "–"
_MINUS = "−"


@dataclass(frozen=True)
class Metric:
    """A metric: its key in the summary, how to print it, and whether more is better, if either."""

    key: str
    title: str
    digits: int
    more_is_better: bool | None


METRICS = (
    Metric("psnr_db", "PSNR, dB (higher is better)", 2, True),
    Metric("ssim", "SSIM (higher is better)", 4, True),
    Metric("psnr_window_db", "PSNR in the display window, dB (higher is better)", 2, True),
    Metric("ssim_window", "SSIM in the display window (higher is better)", 4, True),
    Metric("rmse_hu", "RMSE in the body, HU (lower is better)", 1, False),
    Metric("lpips", "LPIPS (AlexNet) in the display window (lower is better)", 4, False),
    Metric(
        "frechet_vgg16_relu3_3",
        "Fréchet distance of VGG16 relu3_3 in the display window (lower is better)",
        3,
        False,
    ),
)


@dataclass(frozen=True)
class Cell:
    """A printed number, whether it is the best of its column, and its interval if there is one."""

    text: str
    best: bool = False
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A method's row, of a group; `first` where another group's row is above it."""

    method: str
    label: str
    cells: list[Cell]
    group: str
    first: bool


def number(value: object, digits: int) -> float | None:
    """Return `value` rounded, or None where it is missing or not finite."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return round(float(value), digits)
    return None


def printed(value: float | None, digits: int) -> str:
    """Return a number as it is printed; a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def site_names(summary: Mapping[str, Any]) -> list[str]:
    """Return the sites in the order of the configuration, then as the summary lists them."""
    config = summary.get("config")
    names = [s["name"] for s in config.get("sites", ())] if isinstance(config, Mapping) else []
    found = dict.fromkeys(s for m in summary["methods"].values() for s in m["sites"])
    return [name for name in names if name in found] + [n for n in found if n not in names]


def metric_rows(summary: Mapping[str, Any], metric: Metric, sites: Sequence[str]) -> list[Row]:
    """Return a metric's table: methods by sites, and the mean with its interval in the end.

    Best are, in every column, the methods with the best printed number; the pooled reference does
    not compete.
    """
    methods = ordered(summary["methods"])
    values, intervals = {}, {}
    for method in methods:
        entry = summary["methods"][method]
        found = [entry["sites"].get(site, {}).get(metric.key) for site in sites]
        found.append(entry.get("mean", {}).get(metric.key))
        values[method] = [number(value, metric.digits) for value in found]
        ends = entry.get("mean", {}).get(f"{metric.key}_interval") or ()
        texts = [printed(number(end, metric.digits), metric.digits) for end in ends]
        intervals[method] = f"[{', '.join(texts)}]" if len(texts) == 2 else ""
    best = []
    for column in range(len(sites) + 1):
        competing = [values[m][column] for m in methods if m not in REFERENCE_METHODS]
        numbers = [value for value in competing if value is not None]
        choose = max if metric.more_is_better else min
        judged = len(numbers) > 1 and metric.more_is_better is not None
        best.append(choose(numbers) if judged else None)
    rows: list[Row] = []
    for method in methods:
        reference = method in REFERENCE_METHODS
        cells = [
            Cell(
                printed(value, metric.digits),
                not reference and value is not None and value == best[column],
                intervals[method] if column == len(sites) else "",
            )
            for column, value in enumerate(values[method])
        ]
        rows.append(row(method, cells, rows))
    return rows


def row(method: str, cells: list[Cell], above: Sequence[Row]) -> Row:
    """Return a method's row, which comes below those above."""
    kind = group(method)
    return Row(method, label(method), cells, kind, bool(above) and above[-1].group != kind)


def metric_tables(
    summary: Mapping[str, Any], sites: Sequence[str], metrics: Sequence[Metric] = METRICS
) -> list[tuple[str, list[Row]]]:
    """Return title and rows of every metric of which the summary holds a number."""
    found = [(_title(summary, m), metric_rows(summary, m, sites)) for m in metrics]
    return [
        (title, rows)
        for title, rows in found
        if any(cell.text != MISSING for row in rows for cell in row.cells)
    ]


def _title(summary: Mapping[str, Any], metric: Metric) -> str:
    """Return a metric's title; a distance between sets says how large they are."""
    if not metric.key.startswith("frechet"):
        return metric.title
    sizes = {
        site.get("n_slices") for m in summary["methods"].values() for site in m["sites"].values()
    }
    numbers = " or ".join(map(str, sorted(size for size in sizes if isinstance(size, int))))
    return f"{metric.title}, {numbers} slices a site"


def headline(summary: Mapping[str, Any], sites: Sequence[str]) -> str:
    """Say in a sentence or two how FedM2CT compares in PSNR; empty when it did not run."""
    methods = summary["methods"]
    own = number(methods.get("fedm2ct", {}).get("mean", {}).get("psnr_db"), 4)
    if own is None:
        return ""
    others = {
        method: value
        for method in ordered(set(methods) - {OWN_METHOD})
        if (value := number(methods[method].get("mean", {}).get("psnr_db"), 4)) is not None
    }
    parts = []
    for method in others if len(others) <= _NAMED else _best_of_each_group(others):
        gap = f"{own - others[method]:+.2f}".replace("-", _MINUS)
        parts.append(f"{gap} dB against {label(method)}")
    text = f"FedM2CT: mean PSNR {own:.2f} dB on patients that no site has trained on"
    text += f" ({', '.join(parts)})." if parts else "."
    if "local" in methods:
        pairs = {
            site: [number(methods[m]["sites"].get(site, {}).get("psnr_db"), 4) for m in _PAIR]
            for site in sites
        }
        known = {s: (a, b) for s, (a, b) in pairs.items() if a is not None and b is not None}
        worse = [site for site, (a, b) in known.items() if a < b]
        if worse:
            text += f" Below local-only training at: {', '.join(worse)}."
        elif known:
            text += " Not below local-only training at any site."
    return text


_PAIR = ("fedm2ct", "local")
_NAMED = 6


def _best_of_each_group(values: Mapping[str, float]) -> list[str]:
    """Return the methods with the highest value of their groups, in the order of printing."""
    best: dict[str, str] = {}
    for method, value in values.items():
        if value > values[best.setdefault(group(method), method)]:
            best[group(method)] = method
    return ordered(best.values())


def _span_deg(protocol: Mapping[str, Any]) -> str:
    span = number(protocol.get("span_deg", 360.0), 1)
    for field, unit in (("angles_deg", 1.0), ("angles_rad", math.degrees(1))):
        angles = protocol.get(field)
        if angles:
            step = (max(angles) - min(angles)) / max(1, len(angles) - 1)
            span = number((max(angles) - min(angles) + step) * unit, 1)
    return MISSING if span is None else f"{span:g}"


def _field_of_view_mm(protocol: Mapping[str, Any]) -> float | None:
    size = protocol.get("size") or max(protocol.get("rows", 0), protocol.get("columns", 0))
    pixel = protocol.get("pixel_mm")
    return size * pixel if size and pixel else None


def protocol_row(
    site: str, protocol: Mapping[str, Any] | None, patients: Sequence[str]
) -> list[str]:
    """Return a site's line of the protocol table, see `PROTOCOL_COLUMNS`."""
    p = protocol or {}
    views = p.get("views") or len(p.get("angles_deg") or p.get("angles_rad") or ())
    beam = str(p.get("beam", MISSING))
    if beam == "fan":
        beam += f", {p.get('detector', 'flat')} detector"
    fov, pixel = _field_of_view_mm(p), number(p.get("pixel_mm"), 2)
    bins, pitch = p.get("bins"), number(p.get("pitch_mm"), 2)
    photons, sigma = number(p.get("photons"), 0), number(p.get("electronic_noise", 0), 1)
    return [
        site,
        beam,
        str(views) if views else MISSING,
        _span_deg(p) if p else MISSING,
        f"{bins} × {pitch:g} mm" if bins and pitch is not None else MISSING,
        f"{photons:,.0f}" if photons is not None else MISSING,
        f"{sigma:g}" if sigma is not None and p else MISSING,
        f"{fov:.0f} mm" + (f" ({pixel:g} mm pixels)" if pixel else "") if fov else MISSING,
        ", ".join(map(without_folders, patients)) or MISSING,
    ]


PROTOCOL_COLUMNS = (
    "Site",
    "Beam",
    "Views",
    "Span, °",
    "Detector bins",
    "Photons per ray",
    "Electronic noise, photons",
    "Field of view",
    "Trained on",
)


def communication_rows(history: History) -> list[list[str]]:
    """Return method, rounds, MB a round up and down, MB in all, and seconds of work.

    Bytes are sums over the sites and means over the seeds; seconds are means over the seeds. The
    handing over of the final parameters counts in all, and not by round.
    """
    rounds_only = [entry for entry in history if entry.get("event") != "finish"]
    in_rounds, whole = (
        [bytes_per_round(entries, key) for key in ("bytes_up", "bytes_down")]
        for entries in (rounds_only, history)
    )
    seconds = bytes_per_round(history, "seconds")
    rows = []
    for method in ordered({*whole[0], *whole[1], *seconds}):
        rounds = len({r for found in (*whole, seconds) for r in found.get(method, {})})
        by_round, total = (
            [sum(found.get(method, {}).values()) / 1e6 for found in sent]
            for sent in (in_rounds, whole)
        )
        took = sum(seconds.get(method, {}).values())
        row = [label(method), str(rounds), *(f"{sent / rounds:.2f}" for sent in by_round)]
        rows.append([*row, f"{sum(total):.1f}", f"{took:.0f}"])
    return rows


_FOLDER = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\.{1,2}[\\/])")


def without_folders(text: str) -> str:
    """Return the last part of a path, any other text as it is: a report names no folders."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if _FOLDER.match(text) else text


def tidy(value: object) -> object:
    """Return plain data with the folders of all paths left out."""
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value
