"""Finished runs in, benchmarks/results/NAME.json and docs/results.md out.

    python benchmarks/results.py add RUN --name small [--evaluated DIR --note TEXT]
    python benchmarks/results.py page

`add` takes a run's summary and compares FedM2CT with every other method, paired by slice. With the
folder of a `fedm2ct evaluate`, it does the same by patient. `page` writes the page.
"""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.evaluation.statistics import compare
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.manifest import config_of, read_manifest
from fedm2ct.pipeline.provenance import machine
from fedm2ct.pipeline.summary import read_result

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "results.md"
OURS = "fedm2ct"
METRICS = ("psnr_db", "ssim", "rmse_hu")


def by_slice(run: Path, metric: str) -> dict[str, np.ndarray]:
    """Return each method's score of each test slice, averaged over sites and seeds.

    The same slice under another protocol or seed is no further case.
    """
    config = config_of(run)
    return {
        method: np.mean(
            [
                scores[""][metric]
                for seed in config.seeds
                for scores in read_result(run, method, seed).values()
            ],
            axis=0,
        )
        for method in config.methods
    }


def by_patient(metrics: dict[str, Any], metric: str) -> dict[str, np.ndarray]:
    """Return each method's scores by patient, averaged over the sites' protocols."""
    result = {}
    for method, scores in metrics["methods"].items():
        sites = scores["sites"].values()
        patients = sorted(next(iter(sites))["patients"])
        result[method] = np.array(
            [np.mean([site["patients"][p][metric] for site in sites]) for p in patients]
        )
    return result


def comparisons(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compare ours with every other method; the interval is a bootstrap over the cases."""
    rivals = {name: values for name, values in scores.items() if name != OURS}
    found = compare(scores[OURS], rivals, np.random.default_rng(0))
    return {name: asdict(comparison) for name, comparison in found.items()}


def add(run: Path, name: str, evaluated: Path | None, note: str) -> None:
    """Store a run's results under a name."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    here = machine()
    record = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{here['cpu']}, {here['cores']} cores",
        "git_commit": read_manifest(run).get("git_commit"),
        "summary": summary,
        "seconds": seconds(run),
        "bytes_per_round": bytes_per_round(run),
        "by_slice": {m: comparisons(by_slice(run, m)) for m in METRICS},
    }
    if evaluated is not None:
        metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
        record["further"] = {
            "methods": metrics["methods"],
            "scans": metrics["scans"],
            "note": note,
            "by_patient": {m: comparisons(by_patient(metrics, m)) for m in METRICS},
        }
    write_atomically(RESULTS / f"{name}.json", json.dumps(record, indent=1).encode())


def _rounds(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [e for e in map(json.loads, lines) if e.get("event") == "round"]


def seconds(run: Path) -> dict[str, float]:
    """Return each method's seconds of training, mean over seeds."""
    seeds = len(config_of(run).seeds)
    total: dict[str, float] = {}
    for entry in _rounds(run):
        total[entry["method"]] = total.get(entry["method"], 0.0) + entry["seconds"] / seeds
    return total


def bytes_per_round(run: Path) -> dict[str, int]:
    """Return each method's bytes a round, up and down, all sites together."""
    return {
        entry["method"]: entry["bytes_up"] + entry["bytes_down"]
        for entry in _rounds(run)
        if entry["site"] == "server"
    }


def score_table(methods: dict[str, Any]) -> list[str]:
    """Return the table PSNR / SSIM / RMSE by site."""
    sites = list(next(iter(methods.values()))["sites"])
    rows = [f"| method | {' | '.join(sites)} | mean |", "|---" * (len(sites) + 2) + "|"]
    for method, scores in methods.items():
        cells = [*(scores["sites"][s] for s in sites), scores["mean"]]
        text = [f"{c['psnr_db']:.2f} / {c['ssim']:.3f} / {c['rmse_hu']:.0f}" for c in cells]
        rows.append(f"| {method} | {' | '.join(text)} |")
    return rows


def comparison_table(compared: dict[str, Any], case: str) -> list[str]:
    """Return the table of ours minus each rival."""
    rows = [
        f"| FedM2CT minus | PSNR dB | SSIM | RMSE HU | p (Holm), PSNR, by {case} |",
        "|---|---|---|---|---|",
    ]
    for rival in compared["psnr_db"]:
        cells = []
        for metric, digits in zip(METRICS, (2, 4, 1), strict=True):
            d = compared[metric][rival]["difference"]
            cells.append(f"{d['mean']:+.{digits}f}")
            if d["low"] is not None:
                cells[-1] += f" [{d['low']:+.{digits}f}, {d['high']:+.{digits}f}]"
        p = compared["psnr_db"][rival]["p_holm"]
        rows.append(f"| {rival} | {' | '.join(cells)} | {'' if p is None else f'{p:.2g}'} |")
    return rows


def section(record: dict[str, Any]) -> list[str]:
    """Return one run's part of the page."""
    summary = record["summary"]
    config = summary["config"]
    training = config["training"]
    cost = "; ".join(f"{m} {s:.0f} s" for m, s in record["seconds"].items())
    traffic = "; ".join(f"{m} {b / 1e6:.1f} MB" for m, b in record["bytes_per_round"].items() if b)
    lines = [
        f"## {record['name']}",
        "",
        f"{record['date']}, {record['machine']}, torch {summary['versions']['torch']}. "
        f"Seeds {config['seeds']}, {training['rounds']} rounds of {training['local_steps']} steps "
        f"a site, batch {training['batch_size']}. Test scan: {', '.join(config['test']['scans'])}.",
        "",
        "PSNR dB / SSIM over [-1024, 3071] HU / RMSE in HU inside the body, by site, "
        "mean over slices and seeds:",
        "",
        *score_table(summary["methods"]),
        "",
        "Paired by slice, mean over sites and seeds, 95 % bootstrap interval over slices (they are "
        "of few patients and not independent: the interval is about these patients; none is given "
        "for a run of which the single slices were not stored):",
        "",
        *comparison_table(record["by_slice"], "slice"),
        "",
        f"Seconds of training a seed: {cost}. Bytes a round, up and down, all sites: {traffic}.",
        "",
    ]
    if "further" in record:
        further = record["further"]
        lines += [
            f"### {record['name']}, further patients",
            "",
            f"{len(further['scans'])} patients that the run has not seen: "
            f"{', '.join(s['name'] for s in further['scans'])}. Models of the first seed. "
            f"{further['note']}".rstrip(),
            "",
            *score_table(further["methods"]),
            "",
            "Paired by patient, mean over sites, 95 % bootstrap interval over patients:",
            "",
            *comparison_table(further["by_patient"], "patient"),
            "",
        ]
    return lines


def page() -> None:
    """Write docs/results.md from all stored results."""
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Results",
        "",
        "Generated by `python benchmarks/results.py page` from `benchmarks/results/*.json`; do not "
        "edit. What the metrics mean: [evaluation.md](evaluation.md). Ablation: "
        "[ablation.md](ablation.md). No figure of the FedM2CT paper is reproduced or claimed.",
        "",
    ]
    for record in records:
        if "by_slice" in record:
            lines += section(record)
    write_atomically(PAGE, ("\n".join(lines).rstrip() + "\n").encode())


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="store a run's results and write the page")
    adding.add_argument("run", type=Path)
    adding.add_argument("--name", required=True)
    adding.add_argument("--evaluated", type=Path, help="folder of a `fedm2ct evaluate`")
    adding.add_argument("--note", default="", help="where those scans are from")
    commands.add_parser("page", help="write the page only")
    arguments = parser.parse_args()
    if arguments.command == "add":
        add(arguments.run, arguments.name, arguments.evaluated, arguments.note)
    page()


if __name__ == "__main__":
    main()
