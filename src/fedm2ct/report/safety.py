"""The report's tables on safety: what an image leaves unexplained, and what of lesions it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedm2ct.report.style import ordered
from fedm2ct.report.tables import Cell, Metric, Row, metric_tables, number, printed, row, site_names

CONSISTENCY = (
    Metric("residual", "Residual of the projections, in units of the noise", 2, None),
    Metric("residual_to_truth", "The residual, relative to the truth's own", 2, None),
    Metric("residual_to_fbp", "The residual, relative to FBP's", 2, None),
)
"""No number of these is the best: an image should explain what was measured, but not its noise."""

LESION_WAYS = (
    ("recovered", "Contrast of planted lesions, %: image with minus image without (100 is all)"),
    ("direct", "Contrast of planted lesions, %: in the image itself (noise and streaks included)"),
)


def safety_context(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report's template needs for its section on safety."""
    sites, lesions = site_names(summary), summary.get("lesions")
    return {
        "consistency": metric_tables(summary, sites, CONSISTENCY),
        "lesions": lesion_tables(lesions, sites) if lesions else [],
        "lesion_note": lesion_note(lesions, sites) if lesions else "",
    }


def lesion_tables(lesions: Mapping[str, Any], sites: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """Return title and rows of both ways to read planted lesions."""
    tables = []
    for way, title in LESION_WAYS:
        rows: list[Row] = []
        for method in ordered(lesions["methods"]):
            found = lesions["methods"][method]
            cells = [Cell(spread(found["sites"].get(site, {}).get(way))) for site in sites]
            cells.append(Cell(printed(number(found["mean"].get(way), 0), 0)))
            rows.append(row(method, cells, rows))
        tables.append((title, rows))
    return tables


def spread(found: Mapping[str, Any] | None) -> str:
    """Return mean ± standard deviation in whole percent."""
    mean, sd = (number((found or {}).get(key), 0) for key in ("mean", "sd"))
    return printed(mean, 0) if sd is None else f"{printed(mean, 0)} ± {printed(sd, 0)}"


def lesion_note(lesions: Mapping[str, Any], sites: Sequence[str]) -> str:
    """Say which lesions were planted, and where."""
    diameters = " and ".join(f"{value:g}" for value in lesions["diameters_mm"])
    contrasts = " and ".join(f"{value:+g}" for value in lesions["contrasts_hu"])
    numbers = ", ".join(
        f"{len(found['lesions'])} at {site} ({found['pixel_mm']:.2g} mm pixels)"
        for site in sites
        if (found := lesions["sites"].get(site))
    )
    return (
        f"Discs of {diameters} mm and {contrasts.replace('-', '−')} HU in even soft tissue of the "
        "test slices, added to their simulated measurements, whose noise stays the same, seed "
        f"{lesions['seed']}: {numbers}."
    )
