"""Scores of a benchmark's units in, the tables of its record out.

A test patient's score is the mean over its slices, then over seeds. Over sites, each counts alike.
Intervals and tests are over patients; with one test patient there is neither, and the comparison is
by its slices, which says nothing of other patients.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedm2ct.evaluation.statistics import Interval, bootstrap_mean, compare
from fedm2ct.pipeline.summary import Scores

FloatArray = NDArray[np.float64]
Results = dict[str, dict[int, Scores]]
"""Units' scores by method and seed."""

OURS = "fedm2ct"
METRICS = ("psnr_db", "ssim", "rmse_hu", "psnr_window_db", "ssim_window")
"""Scored by every version; what else the units have scored is taken up too."""
COMPARED = ("psnr_db", "ssim", "rmse_hu")


@dataclass(frozen=True)
class Costs:
    """What a unit costs: seconds of work, rounds, and bytes of all rounds and sites.

    There are no seconds where none of a method's units is of the machine whose seconds count.
    """

    seconds: float | None
    rounds: int
    bytes_up: float
    bytes_down: float


def scores_of(
    results: Results, costs: Mapping[str, Costs], without_pairs: Collection[str] = ()
) -> dict[str, Any]:
    """Return the parts ``methods``, ``compared``, ``lacking`` and ``n_patients`` of a record.

    A method has the metrics that all of its units have; those that some lack are named.

    Parameters
    ----------
    results, costs
        By method.
    without_pairs
        The sites that had no normal-dose images: their own mean is added.
    """
    patients = _slices_patients(results)
    names = sorted(set(patients))
    return {
        "n_patients": len(names),
        "n_slices": len(patients),
        "methods": {
            method: {
                "seeds": sorted(by_seed),
                **_method(by_seed, patients, without_pairs),
                "costs": asdict(costs[method]),
            }
            for method, by_seed in results.items()
        },
        "compared": {
            "case": "patient" if len(names) > 1 else "slice",
            "metrics": {
                metric: _compared(results, metric, patients)
                for metric in COMPARED
                if OURS in results
            },
        },
        "lacking": _lacking(results),
    }


def _slices_patients(results: Results) -> list[str]:
    """Return the patient of each test slice: the same for all methods, seeds and sites."""
    first = next(iter(next(iter(results.values())).values()))
    patients: list[str] = next(iter(first.values()))[""]["patients"]
    return patients


def _metrics(units: Iterable[Scores]) -> list[str]:
    """Return the metrics of which all units have a number a slice, `METRICS` first."""
    kept = _scored(units, list)
    return [*(name for name in METRICS if name in kept), *(n for n in kept if n not in METRICS)]


def _totals(units: Iterable[Scores]) -> list[str]:
    """Return the metrics of which all units have one number, of all slices together."""
    return _scored(units, int | float)


def _scored(units: Iterable[Scores], kind: type | UnionType) -> list[str]:
    """Return the metrics that are of a kind at every site of every unit."""
    first, *others = (outputs[""] for scores in units for outputs in scores.values())
    names = [name for name, value in first.items() if isinstance(value, kind)]
    every = [n for n in names if all(isinstance(found.get(n), kind) for found in others)]
    return [name for name in every if name != "patients"]


def _lacking(results: Results) -> dict[str, dict[str, list[int]]]:
    """Return which seeds of which methods lack a metric that another unit has, by metric."""
    has = {
        (method, seed): {*_metrics([scores]), *_totals([scores])}
        for method, by_seed in results.items()
        for seed, scores in sorted(by_seed.items())
    }
    found: dict[str, dict[str, list[int]]] = {}
    for metric in sorted(set().union(*has.values())):
        for (method, seed), metrics in has.items():
            if metric not in metrics:
                found.setdefault(metric, {}).setdefault(method, []).append(seed)
    return found


def _by_slice(scores: Scores, metric: str) -> FloatArray:
    """Return a metric of the method's own output, shape ``(site, slice)``."""
    return np.array([scores[site][""][metric] for site in scores], dtype=np.float64)


def _by_patient(values: FloatArray, patients: Sequence[str]) -> FloatArray:
    """Average ``(..., slice)`` over each patient's slices; patients sorted by name."""
    labels = np.array(patients)
    return np.stack(
        [_finite_mean(values[..., labels == name]) for name in sorted(set(patients))], axis=-1
    )


def _finite_mean(values: FloatArray) -> FloatArray:
    """Average the finite ones of ``(..., n)`` over the last axis; NaN where there are none."""
    finite = np.isfinite(values)
    sums, counts = np.where(finite, values, 0.0).sum(axis=-1), finite.sum(axis=-1)
    mean: FloatArray = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean


def _over_seeds(by_seed: Mapping[int, Scores], seeds: Sequence[int], metric: str) -> FloatArray:
    """Return a metric's mean over seeds, shape ``(site, slice)``."""
    mean: FloatArray = np.mean([_by_slice(by_seed[seed], metric) for seed in seeds], axis=0)
    return mean


def _method(
    by_seed: Mapping[int, Scores], patients: Sequence[str], without_pairs: Collection[str]
) -> dict[str, Any]:
    """Return one method's means with intervals, over sites and at each site."""
    first, metrics = next(iter(by_seed.values())), _metrics(by_seed.values())
    sites: dict[str, dict[str, Any]] = {site: {} for site in first}
    apart = [site in without_pairs for site in sites]
    mean: dict[str, Any] = {}
    unpaired: dict[str, Any] = {}
    each: dict[str, dict[str, float]] = {name: {} for name in sorted(set(patients))}
    for metric in metrics:
        table = _by_patient(_over_seeds(by_seed, sorted(by_seed), metric), patients)
        for site, values in zip(sites, table, strict=True):
            sites[site][metric] = interval_of(values)
        overall = table.mean(axis=0)
        mean[metric] = interval_of(overall)
        if any(apart):
            unpaired[metric] = interval_of(table[apart].mean(axis=0))
        for name, value in zip(each, overall, strict=True):
            each[name][metric] = float(value)
    for metric in _totals(by_seed.values()):
        numbers = [np.mean([s[site][""][metric] for s in by_seed.values()]) for site in sites]
        for site, value in zip(sites, numbers, strict=True):
            sites[site][metric] = _number(float(value))
        mean[metric] = _number(float(np.mean(numbers)))
        if any(apart):
            unpaired[metric] = _number(float(np.mean(np.array(numbers)[apart])))
    seeds = {
        str(seed): {m: float(np.nanmean(_by_patient(_by_slice(s, m), patients))) for m in metrics}
        for seed, s in sorted(by_seed.items())
    }
    found = {"mean": mean, "sites": sites, "patients": each, "by_seed": seeds}
    return {**found, "mean_without_pairs": unpaired} if unpaired else found


def newcomer_scores(joined: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means with intervals over patients, by method, number of slices and metric.

    Parameters
    ----------
    joined
        By method, and for each seed: number of slices -> metric -> one number a test slice.
    """
    found: dict[str, Any] = {}
    for method, by_seed in joined.items():
        found[method] = {"seeds": len(by_seed)}
        for count, first in by_seed[0].items():
            metrics = _metrics({"": {"": s[count]}} for s in by_seed)
            values = {m: np.mean([s[count][m] for s in by_seed], axis=0) for m in metrics}
            found[method][count] = {
                m: interval_of(_by_patient(values[m], first["patients"])) for m in metrics
            }
    return found


def interval_of(values: FloatArray) -> dict[str, Any]:
    """Return mean and 95 % bootstrap interval over patients; no interval from one patient.

    A patient without a number (no body in its slices) does not count.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"mean": None, "low": None, "high": None, "n": 0}
    return _plain(bootstrap_mean(finite, np.random.default_rng(0)))


def _number(value: float) -> dict[str, Any]:
    """Return a number that has no interval."""
    return {"mean": value, "low": None, "high": None, "n": None}


def _plain(interval: Interval) -> dict[str, Any]:
    """Return an interval for JSON, which has no word for NaN."""
    ends = (interval.low, interval.high)
    low, high = (end if np.isfinite(end) else None for end in ends)
    return {"mean": interval.mean, "low": low, "high": high, "n": interval.n}


def _compared(results: Results, metric: str, patients: Sequence[str]) -> dict[str, Any]:
    """Return ours less each rival, over the seeds that both have, by patient (or slice)."""
    by_patient = len(set(patients)) > 1

    def cases(method: str, seeds: Sequence[int]) -> FloatArray:
        values = _over_seeds(results[method], seeds, metric)
        kept = _by_patient(values, patients) if by_patient else values
        mean: FloatArray = kept.mean(axis=0)
        return mean

    ours = cases(OURS, sorted(results[OURS]))
    common = {
        method: sorted(set(by_seed) & set(results[OURS]))
        for method, by_seed in results.items()
        if method != OURS
    }
    # A rival with fewer seeds is paired with ours of the same seeds: only differences count below.
    rivals = {
        method: ours - (cases(OURS, seeds) - cases(method, seeds))
        for method, seeds in common.items()
        if seeds
    }
    kept = np.isfinite([ours, *rivals.values()]).all(axis=0)
    if not rivals or not kept.any():
        return {}
    paired = {method: values[kept] for method, values in rivals.items()}
    found = compare(ours[kept], paired, np.random.default_rng(0))
    return {
        method: {
            **_plain(comparison.difference),
            "p_value": comparison.p_value,
            "p_holm": comparison.p_holm,
            "seeds": common[method],
        }
        for method, comparison in found.items()
    }
