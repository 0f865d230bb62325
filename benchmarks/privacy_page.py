"""Write the tables of docs/privacy.md from stored results: python benchmarks/privacy_page.py."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedm2ct.files import write_atomically

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "privacy.md", HERE / "results"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table.

    Raises
    ------
    ValueError
        When a row has another length than the header.
    """
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"a row of the table has not {len(header)} cells")
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def difference(entry: dict[str, float]) -> str:
    """Return a mean difference in dB and, of several seeds, its range over them."""
    if entry["least"] == entry["largest"]:
        return f"{entry['mean']:+.3f}"
    return f"{entry['mean']:+.3f} [{entry['least']:+.3f}, {entry['largest']:+.3f}]"


def _about(record: dict[str, Any]) -> str:
    date, seeds = record["date"][:10], record.get("seeds", [])
    count = f", {len(seeds)} seed{'s' * (len(seeds) != 1)}" if seeds else ""
    schedule = record.get("config", {}).get("training")
    length = ""
    if schedule and seeds:
        length = f", {schedule['rounds']} rounds of {schedule['local_steps']} steps"
    versions = f"{record['machine']['cpu']}, torch {record['versions']['torch']}"
    return f"{date}, {versions}{length}{count}."


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def compression(record: dict[str, Any]) -> str:
    """Return the table of bytes and PSNR."""
    rows = [
        [
            f"`{method}`",
            "{rounds} x {local_steps}".format(**entry["schedule"]),
            name,
            f"{entry['bytes_up'] / 1e3:.1f}",
            f"{100 * entry['bytes_up_share']:.1f} %",
            f"{entry['bytes_down'] / 1e3:.1f}",
            f"{_mean(entry['mean_psnr_db']):.3f}",
            difference(entry["psnr_minus_none_db"]),
        ]
        for method, found in record["methods"].items()
        for name, entry in found.items()
    ]
    header = [
        "Method",
        "Rounds x steps",
        "Compression",
        "kB up",
        "of none",
        "kB down",
        "PSNR dB",
        "less none",
    ]
    record = {**record, "config": {}}  # the schedule differs by method
    return f"{_about(record)} kB of one site's message.\n\n{table(header, rows)}"


def _epsilon(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "none"
    return f"{value:.3g}" if value < 1000 else f"{value:.1e}"


def noise(record: dict[str, Any]) -> str:
    """Return the table of noise, epsilon and PSNR."""
    rows = []
    for name, entry in record["noise"].items():
        kind, _, z = name.partition(" ")
        epsilon = entry.get("epsilon_update", entry.get("epsilon_slice"))
        rows.append(
            [
                kind,
                z or "",
                "" if kind == "none" else _epsilon(epsilon),
                f"{_mean(entry['mean_psnr_db']):.2f}",
                difference(entry["psnr_minus_none_db"]),
            ]
        )
    intro = (
        f"{_about(record)} `{record['method']}`, update_clip {record['update_clip']:g}, slice_clip "
        f"{record['slice_clip']:g}; noise 0 clips only. Epsilon after the whole run, of the first "
        "site."
    )
    header = ["Noise", "z", "epsilon", "PSNR dB", "less none"]
    return f"{intro}\n\n{table(header, rows)}"


def averages(record: dict[str, Any]) -> str:
    """Return the table of robust averages."""
    rows = [
        [
            name,
            f"{_mean(entry['mean_psnr_db']):.2f}",
            difference(entry["psnr_minus_mean_db"]),
        ]
        for name, entry in record["averages"].items()
    ]
    header = ["Average", "PSNR dB", "less mean"]
    return f"{_about(record)} `{record['method']}`.\n\n{table(header, rows)}"


def inversion(record: dict[str, Any]) -> str:
    """Return the table of attacks."""
    seeds = list(record["seeds"].values())
    rows = []
    for name in seeds[0]:
        cells = [
            sum(seed[name][key] for seed in seeds) / len(seeds)
            for key in ("ssim", "psnr_db", "cosine")
        ]
        guess = name.startswith("guess")
        rows.append(
            [name, f"{cells[0]:.3f}", f"{cells[1]:.1f}", "" if guess else f"{cells[2]:.3f}"]
        )
    site = record["site"]
    intro = (
        f"{_about(record)} {record['network']}; {site['scan']} at {site['size']} x {site['size']}, "
        f"{record['attack']['iterations']} iterations. SSIM over [-1024, 3071] HU."
    )
    return f"{intro}\n\n{table(['Upload', 'SSIM', 'PSNR dB', 'cosine reached'], rows)}"


def scale(record: dict[str, Any]) -> str:
    """Return the table of time and memory by number of sites."""
    modes = record["modes"]
    titles = {
        "server": "server alone",
        "held": "uploads held in memory",
        "whole": "real sites, `fedavg`",
    }
    sites = list(modes["server"])
    rows = [
        [
            n,
            *(
                f"{modes[mode][n]['round_cpu_s']:.2f} s, {modes[mode][n]['peak_growth_mb']:.0f} MB"
                for mode in titles
            ),
        ]
        for n in sites
    ]
    intro = (
        f"{_about(record)} An upload has {record['upload_mb']:.1f} MB where the server is alone; "
        "seconds are a round's processor time, MB the process's peak above that of a run of one "
        "round with two sites."
    )
    return f"{intro}\n\n{table(['Sites', *titles.values()], rows)}"


PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "compression": ("compression.json", compression),
    "noise": ("noise.json", noise),
    "averages": ("averages.json", averages),
    "inversion": ("inversion.json", inversion),
    "scale": ("scale.json", scale),
}


def with_tables(page: str) -> str:
    """Return the page with its tables replaced by those of the stored results."""
    for name, (file, part) in PARTS.items():
        path = RESULTS / file
        if path.exists():
            text = part(json.loads(path.read_text(encoding="utf-8")))
            pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            page = re.sub(pattern, lambda m, t=text: f"{m[1]}{t}\n{m[2]}", page, flags=re.S)
    return page


if __name__ == "__main__":
    write_atomically(PAGE, with_tables(PAGE.read_text(encoding="utf-8")).encode())
