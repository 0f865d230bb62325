"""The report of a run: one HTML file that holds everything it shows and opens offline."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.metrics import FULL_RANGE_HU, WINDOWS
from fedm2ct.files import write_atomically
from fedm2ct.report import tables
from fedm2ct.report.curves import History, learning_figure
from fedm2ct.report.figures import (
    DisplayWindow,
    SiteImages,
    difference_limit_hu,
    png_uri,
    site_figure,
)
from fedm2ct.report.safety import safety_context
from fedm2ct.report.style import label, ordered

Arrays = Mapping[str, NDArray[np.floating]]
Facts = Mapping[str, Any]

DEFAULT_WINDOW = "abdomen"

NOTES = (
    "Research output, not for diagnosis.",
    "The acquisitions were simulated from normal-dose scans. Their images, called truth here, "
    "carry noise and artefacts of their own, and a method is rewarded for reproducing them.",
    "Slices of one patient are not independent of one another: with few test patients the numbers "
    "describe these patients and do not carry over to others by themselves.",
    "PSNR and SSIM over the full range say little about low-contrast lesions; look at the "
    "difference images for edges and anatomy, which should not be visible there.",
)


class ReportError(FedM2CTError):
    """A report that cannot be made."""


def write_report(
    run_dir: Path,
    summary: Facts,
    manifest: Facts,
    history: History,
    arrays: Arrays,
    path: Path,
) -> None:
    """Write the report of a run, atomically.

    Parameters
    ----------
    run_dir
        The run's folder; only its name is printed.
    summary
        ``methods`` (by method: ``sites`` with ``psnr_db``, ``ssim``, ``rmse_hu``, ``n_slices``,
        and ``mean``, where ``psnr_db_interval`` and the like may hold ``[low, high]``),
        optionally ``psnr_window_db`` and ``ssim_window``, of the display window;
        ``reference`` (``data_range_hu`` and ``window``: a name, or ``name``, ``centre_hu``,
        ``width_hu``), ``seed``, ``config``, ``versions``; ``lesions``, what planted lesions have
        shown, as `fedm2ct.pipeline.lesions` writes it.
    manifest
        All optional: ``protocols`` (by site, as `protocol_to_dict` gives them), ``patients``
        (by site, and ``test``: lists of names), ``seeds``, ``versions``, ``git_commit``,
        ``created``, ``notes`` (further limitations, texts). What is missing is taken from the
        summary's configuration.
    history
        The objects of ``metrics.jsonl``: ``method``, ``seed``, ``round``, ``site``,
        ``val_psnr_db``, ``bytes_up``, ``bytes_down``, ``seconds``.
    arrays
        ``truth_hu/<site>`` and ``<method>/<site>`` in HU, shape ``(n, row, column)``.
    path
        The HTML file.

    Raises
    ------
    ReportError
        When images do not fit one another.
    StorageError
        When the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("fedm2ct.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {
        **_context(run_dir, summary, manifest, history, arrays),
        **safety_context(summary),
    }
    text = environment.get_template("report.html").render(context)
    write_atomically(path, text.encode())


def _window(reference: Facts) -> DisplayWindow:
    given = reference.get("window") or DEFAULT_WINDOW
    facts: Facts = given if isinstance(given, Mapping) else {"name": given}
    name = str(facts.get("name", DEFAULT_WINDOW))
    centre, width = WINDOWS.get(name, WINDOWS[DEFAULT_WINDOW])
    return DisplayWindow(
        name, float(facts.get("centre_hu", centre)), float(facts.get("width_hu", width))
    )


def _config_site(summary: Facts, site: str) -> Facts:
    config = summary.get("config")
    sites = config.get("sites", ()) if isinstance(config, Mapping) else ()
    return next((s for s in sites if s.get("name") == site), {})


def _protocol(summary: Facts, manifest: Facts, site: str) -> Facts | None:
    found = (manifest.get("protocols") or {}).get(site, _config_site(summary, site).get("protocol"))
    return found if isinstance(found, Mapping) else None


def _patients(summary: Facts, manifest: Facts, who: str) -> list[str]:
    found = (manifest.get("patients") or {}).get(who)
    if found is None:
        config = summary.get("config")
        test = config.get("test", {}) if isinstance(config, Mapping) else {}
        found = (test if who == "test" else _config_site(summary, who)).get("scans", ())
    return [found] if isinstance(found, str) else [str(name) for name in found]


def _images(
    site: str, methods: Sequence[str], arrays: Arrays, protocol: Facts | None
) -> tuple[SiteImages, int, int] | None:
    """Return a site's middle slice, its index and the number of slices; None without truth."""
    truth = arrays.get(f"truth_hu/{site}")
    if truth is None or len(truth) == 0:
        return None
    index = len(truth) // 2
    shown = {}
    for method in methods:
        images = arrays.get(f"{method}/{site}")
        if images is None:
            continue
        if images.shape != truth.shape:
            raise ReportError(
                f"arrays: {method}/{site} has shape {images.shape}, the truth {truth.shape}; "
                "evaluate the run again"
            )
        shown[method] = np.asarray(images[index], dtype=np.float64)
    pixel = tables.number((protocol or {}).get("pixel_mm"), 6)
    return SiteImages(np.asarray(truth[index], np.float64), shown, pixel), index, len(truth)


def _tested(summary: Facts, site: str) -> str:
    """Say of how many slices a site's images were kept; nothing where it is not known."""
    found = [m["sites"].get(site, {}).get("n_slices") for m in summary["methods"].values()]
    numbers = [n for n in found if isinstance(n, int)]
    return f", of {max(numbers)} tested" if numbers else ""


def _contributed(summary: Facts) -> bool:
    """Return whether sites have handed slices of their patients to the server."""
    config = summary.get("config")
    meta = config.get("meta", {}) if isinstance(config, Mapping) else {}
    return bool(meta.get("source") == "contributed")


def _site_sections(
    summary: Facts,
    manifest: Facts,
    arrays: Arrays,
    sites: Sequence[str],
    data_range: tuple[float, float],
) -> tuple[list[dict[str, str]], float]:
    """Return a section a site with its figure, and the limit in HU of all differences."""
    methods = ordered(summary["methods"])
    found = {
        site: _images(site, methods, arrays, _protocol(summary, manifest, site)) for site in sites
    }
    known = {site: images for site, images in found.items() if images is not None}
    limit = difference_limit_hu([images for images, _, _ in known.values()])
    window = _window(summary.get("reference") or {})
    sections = []
    for site, (images, index, count) in known.items():
        names = ", ".join(label(method) for method in images.methods)
        sections.append(
            {
                "site": site,
                "slice": f"number {index + 1} of {count} slices kept{_tested(summary, site)}",
                "alt": f"Site {site}: the truth and the reconstructions by {names}, above; their "
                "differences to the truth, below",
                "figure": png_uri(site_figure(images, window, limit, data_range)),
            }
        )
    return sections, limit


def _context(
    run_dir: Path, summary: Facts, manifest: Facts, history: History, arrays: Arrays
) -> dict[str, Any]:
    reference = summary.get("reference") or {}
    low, high = reference.get("data_range_hu") or FULL_RANGE_HU
    sites = tables.site_names(summary)
    sections, limit = _site_sections(summary, manifest, arrays, sites, (low, high))
    learning = learning_figure(history, sites)
    metrics = tables.metric_tables(summary, sites)
    intervals = any(c.interval for _, rows in metrics for row in rows for c in row.cells)
    seeds = manifest.get("seeds") or summary.get("seed")
    return {
        "name": run_dir.resolve().name,
        "created": str(manifest.get("created") or ""),
        "commit": str(manifest.get("git_commit") or ""),
        "headline": tables.headline(summary, sites),
        "sites": sites,
        "metrics": metrics,
        "interval": str(reference.get("interval") or "95% interval") if intervals else "",
        "data_range": f"{low:g} to {high:g} HU",
        "protocol_columns": tables.PROTOCOL_COLUMNS,
        "protocols": [
            tables.protocol_row(
                site, _protocol(summary, manifest, site), _patients(summary, manifest, site)
            )
            for site in sites
        ],
        "test_patients": [
            tables.without_folders(name) for name in _patients(summary, manifest, "test")
        ],
        "seeds": ", ".join(map(str, seeds if isinstance(seeds, list | tuple) else [seeds])),
        "versions": dict(manifest.get("versions") or summary.get("versions") or {}),
        "window": str(_window(reference)),
        "limit": f"{limit:g}",
        "sections": sections,
        "contributed": _contributed(summary),
        "learning": learning and png_uri(learning),
        "communication": tables.communication_rows(history),
        "notes": [*map(str, manifest.get("notes") or ()), *NOTES],
        "config": json.dumps(tables.tidy(summary.get("config")), indent=2, ensure_ascii=False),
    }
