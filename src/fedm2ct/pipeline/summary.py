"""Units' scores in, ``summary.json`` out: by method and site, with intervals over seeds."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedm2ct.config import RunConfig
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.metrics import FULL_RANGE_HU, WINDOWS
from fedm2ct.evaluation.statistics import t_mean
from fedm2ct.pipeline.provenance import versions
from fedm2ct.pipeline.site_files import without_site_scans
from fedm2ct.pipeline.unit import unit_folder

METRICS = (
    "psnr_db",
    "ssim",
    "rmse_hu",
    "psnr_window_db",
    "ssim_window",
    "residual",
    "residual_to_fbp",
    "residual_to_truth",
)
PERCEPTUAL_METRICS = ("lpips", "frechet_vgg16_relu3_3")
"""None where they were not computed."""
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
Means = dict[str, float | None]


def read_result(run: Path, method: str, seed: int) -> Scores:
    """Return a unit's scores: site -> output -> metric -> one number a slice.

    Raises
    ------
    FedM2CTError
        When the unit is not finished.
    """
    path = unit_folder(run, method, seed) / "result.json"
    try:
        scores: Scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FedM2CTError(
            f"{path}: {method} with seed {seed} is not finished; go on with --resume"
        ) from None
    return scores


def mean_scores(scores: Mapping[str, Any]) -> Means:
    """Return each metric's mean over the slices of one output; None where it was not computed."""
    means: Means = {metric: float(np.nanmean(scores[metric])) for metric in METRICS}
    for metric in PERCEPTUAL_METRICS:
        found = scores.get(metric)
        means[metric] = None if found is None else float(np.mean(found))
    return means


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    numbers = [value for value in known if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(known) else None


def _site(results: list[Scores], site: str, output: str) -> dict[str, Any]:
    """Average one site's output over slices, then over seeds; the same for each patient."""
    by_seed = [mean_scores(result[site][output]) for result in results]
    patients = results[0][site][output]["patients"]
    return {
        **_over_seeds(by_seed),
        "n_slices": len(patients),
        "patients": {
            patient: _over_seeds([_of_patient(r[site][output], patient) for r in results])
            for patient in sorted(set(patients))
        },
    }


def _over_seeds(by_seed: list[Means]) -> dict[str, Any]:
    return {metric: _mean(scores[metric] for scores in by_seed) for metric in by_seed[0]}


def _of_patient(scores: Mapping[str, Any], patient: str) -> Means:
    """Return each metric's mean over one patient's slices; a metric of the whole set has none."""
    chosen = [name == patient for name in scores["patients"]]
    by_slice = [m for m in (*METRICS, *PERCEPTUAL_METRICS) if isinstance(scores.get(m), list)]
    return mean_scores({metric: np.asarray(scores[metric])[chosen] for metric in by_slice})


def _method(results: list[Scores]) -> dict[str, Any]:
    sites = list(results[0])
    table = {site: _site(results, site, "") for site in sites}
    for site in sites:
        outputs = [name for name in results[0][site] if name]
        if outputs:
            table[site]["outputs"] = {name: _site(results, site, name) for name in outputs}
    metrics = (*METRICS, *PERCEPTUAL_METRICS)
    mean: dict[str, Any] = {m: _mean(table[s][m] for s in sites) for m in metrics}
    if len(results) > 1:
        for metric in (m for m in metrics if mean[m] is not None):
            by_seed = [
                float(np.mean([mean_scores(result[s][""])[metric] for s in sites]))
                for result in results
            ]
            interval = t_mean(by_seed)
            mean[f"{metric}_interval"] = [interval.low, interval.high]
    mean["n_slices"] = sum(table[s]["n_slices"] for s in sites)
    return {"sites": table, "mean": mean}


def reference(config: RunConfig) -> dict[str, Any]:
    """Return what the metrics refer to."""
    centre, width = WINDOWS[config.window]
    return {
        "data_range_hu": list(FULL_RANGE_HU),
        "window": {"name": config.window, "centre_hu": centre, "width_hu": width},
        "rmse_hu": "inside the body",
        "ssim": "Gaussian 11 x 11, sigma 1.5, K 0.01 and 0.03",
        "residual": "of the projections, root mean square in units of the dose model's noise",
        "lpips": "LPIPS 0.1, AlexNet, in the display window",
        "frechet_vgg16_relu3_3": "VGG16 relu3_3 averaged over each slice, in the display window, "
        "between each site's n_slices reconstructions and their truths",
        "interval": "95 %, Student's t over seeds; slices and sites averaged first",
    }


def summarise_scores(config: RunConfig, results: Mapping[str, list[Scores]]) -> dict[str, Any]:
    """Return the summary of every method's scores, one `Scores` for each seed."""
    return {
        "methods": {method: _method(by_seed) for method, by_seed in results.items()},
        "reference": reference(config),
        "config": without_site_scans(config),
        "versions": versions(),
    }


def summarise(config: RunConfig, run: Path) -> dict[str, Any]:
    """Return the summary of a finished run.

    Raises
    ------
    FedM2CTError
        When a unit of the run is not finished.
    """
    results: dict[str, list[Scores]] = {
        m: [read_result(run, m, seed) for seed in config.seeds] for m in config.methods
    }
    seeds = list(config.seeds)
    return {**summarise_scores(config, results), "seed": seeds[0] if len(seeds) == 1 else seeds}
