"""Finished units of the ablation in, numbers out: means, paired differences, time and bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ablation_variants import FULL, Variant, variants
from numpy.typing import NDArray

from fedm2ct.config import RunConfig, parse_config
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.statistics import bootstrap_mean
from fedm2ct.federation.runlog import RunLog
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.pipeline.settings import without_folders
from fedm2ct.pipeline.summary import Scores, read_result, reference
from fedm2ct.pipeline.unit import unit_folder

METRICS = ("psnr_db", "ssim", "rmse_hu")
PATIENTS_FOR_RESAMPLING = 5
FloatArray = NDArray[np.float64]


def collect(base: RunConfig, names: list[str], out: Path, workers: int) -> dict[str, Any]:
    """Return everything that the page is made of.

    Parameters
    ----------
    base
        The configuration of the full method, its seeds included.
    names
        The variants that were run.
    out
        The folder with one run for each of them.
    workers
        Units that ran side by side, for the record.

    Raises
    ------
    FedM2CTError
        When a unit is not finished, or two variants were tested on different slices.
    """
    known = variants(base)
    results = {name: _results(out / name, known[name], base.seeds) for name in names}
    whole = results[FULL]
    made = provenance()
    made["machine"]["workers"] = workers
    return {
        **made,
        "config": without_folders(base.model_dump(mode="json")),
        "reference": reference(base),
        "interval": _interval_text(whole),
        "variants": {
            name: _row(
                known[name], result, _differences(name, result, whole), out / name, base.seeds
            )
            for name, result in results.items()
        },
    }


def with_rows(
    stored: dict[str, Any], base: RunConfig, names: list[str], out: Path
) -> dict[str, Any]:
    """Return stored results, whose full method has been run before, with further variants' rows.

    Single slices' scores are not stored, so that the new rows' differences have no interval. The
    rows say when and where they were made.

    Raises
    ------
    FedM2CTError
        When a unit is not finished.
    """
    known, made = variants(base), provenance()
    rows = dict(stored["variants"])
    whole = rows[FULL]
    for name in names:
        results = _results(out / name, known[name], base.seeds)
        means = _over_sites(_table(results, ""))
        differences = {
            metric: {
                "mean": means[metric] - whole["mean"][metric],
                "low": None,
                "high": None,
                "n_slices": whole["difference"][metric]["n_slices"],
            }
            for metric in METRICS
        }
        row = _row(known[name], results, differences, out / name, base.seeds)
        rows[name] = row | {"added": made}
    order = dict.fromkeys([*known, *rows])  # some rows' variants are known no more
    return {**stored, "variants": {name: rows[name] for name in order if name in rows}}


def _row(
    variant: Variant,
    results: list[Scores],
    differences: dict[str, Any],
    run: Path,
    seeds: list[int],
) -> dict[str, Any]:
    return {
        "title": variant.title,
        "method": variant.method,
        "changes": variant.changes,
        **_means(results),
        "difference": differences,
        **_cost(run, variant, seeds),
    }


def _results(run: Path, variant: Variant, seeds: list[int]) -> list[Scores]:
    return [read_result(run, variant.method, seed) for seed in seeds]


def _table(results: list[Scores], output: str) -> dict[str, dict[str, float]]:
    """Return each site's metrics of one output: mean over slices, then over seeds."""
    return {
        site: {
            metric: float(np.mean([np.nanmean(r[site][output][metric]) for r in results]))
            for metric in METRICS
        }
        for site in results[0]
        if output in results[0][site]
    }


def _over_sites(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {metric: float(np.mean([row[metric] for row in table.values()])) for metric in METRICS}


def _means(results: list[Scores]) -> dict[str, Any]:
    """Return the means of the method's own output and of each network's alone."""
    sites = _table(results, "")
    found: dict[str, Any] = {"mean": _over_sites(sites), "sites": sites, "outputs": {}}
    for output in ("private", "shared"):
        if table := _table(results, output):
            found["outputs"][output] = {"mean": _over_sites(table), "sites": table}
    return found


def _slices(results: list[Scores], metric: str) -> FloatArray:
    """Return a metric as ``(seed, site, slice)``."""
    return np.array([[r[site][""][metric] for site in r] for r in results], dtype=np.float64)


def _patients(results: list[Scores]) -> list[str]:
    first = results[0]
    patients: list[str] = first[next(iter(first))][""]["patients"]
    return patients


def _differences(name: str, results: list[Scores], whole: list[Scores]) -> dict[str, Any]:
    """Return the variant's metrics less the full method's, on the same slices."""
    if _patients(results) != _patients(whole):
        raise FedM2CTError(f"{name}: was tested on other slices than the full method; run it again")
    return {metric: _difference(results, whole, metric) for metric in METRICS}


def _difference(results: list[Scores], whole: list[Scores], metric: str) -> dict[str, Any]:
    """Average a difference over sites and seeds for each slice, then over slices."""
    difference = _slices(results, metric) - _slices(whole, metric)
    by_slice = np.nanmean(difference, axis=(0, 1))
    finite = np.isfinite(by_slice)
    groups = None
    if _by_patient(whole):
        groups = [p for p, keep in zip(_patients(whole), finite, strict=True) if keep]
    interval = bootstrap_mean(by_slice[finite], np.random.default_rng(0), groups=groups)
    return {
        "mean": interval.mean,
        "low": _number(interval.low),
        "high": _number(interval.high),
        "n_slices": interval.n,
        "by_seed": [float(np.nanmean(seed)) for seed in difference],
    }


def _by_patient(results: list[Scores]) -> bool:
    return len(set(_patients(results))) >= PATIENTS_FOR_RESAMPLING


def _interval_text(results: list[Scores]) -> str:
    count = len(set(_patients(results)))
    if _by_patient(results):
        return f"95 %, bootstrap over the {count} test patients"
    return (
        f"95 %, bootstrap over test slices, of {count} patient{'s' if count > 1 else ''}: it does "
        "not cover how patients differ from one another, nor seeds"
    )


def _number(value: float) -> float | None:
    """Return None for what JSON has no number for."""
    return value if np.isfinite(value) else None


def _cost(run: Path, variant: Variant, seeds: list[int]) -> dict[str, float]:
    """Return a unit's training time, and the bytes that all sites send and receive in a round."""
    logs = [RunLog(unit_folder(run, variant.method, s) / "metrics.jsonl").read() for s in seeds]
    rounds = [[line for line in log if line["event"] == "round"] for log in logs]
    server = [line for lines in rounds for line in lines if line["site"] == "server"]
    return {
        "seconds": float(np.mean([sum(line["seconds"] for line in lines) for lines in rounds])),
        "bytes_per_round": float(np.mean([s["bytes_up"] + s["bytes_down"] for s in server])),
    }


def read_for(base: RunConfig, path: Path) -> dict[str, Any]:
    """Read stored results of a full method, to add rows to.

    A field that the configuration did not have when they were stored has its default there.

    Raises
    ------
    FedM2CTError
        When there are none, or their full method's configuration is another.
    """
    stored = read(path)
    made_with = parse_config(stored["config"], str(path)).model_dump(mode="json")
    if made_with != without_folders(base.model_dump(mode="json")):
        raise FedM2CTError(
            f"{path}: holds results of another configuration; give the options that they were made "
            "with, or leave --add out"
        )
    return stored


def read(path: Path) -> dict[str, Any]:
    """Read stored results.

    Raises
    ------
    FedM2CTError
        When there are none, or they are damaged.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedM2CTError(f"{path}: cannot be read ({error}); run the ablation first") from None
    return stored
