"""Are the differences real? Means with intervals, paired tests, correction for many of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval from ``n`` values; no interval (NaN) from one value."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """Ours against a rival on the same cases.

    ``difference`` is ours minus the rival's; ``p_value`` that of the two-sided Wilcoxon
    signed-rank test; ``p_holm`` the same corrected for all rivals.
    """

    difference: Interval
    p_value: float
    p_holm: float


def bootstrap_mean(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    groups: Sequence[str] | None = None,
) -> Interval:
    """Mean with a percentile bootstrap interval.

    Parameters
    ----------
    values
        Shape ``(n,)``.
    rng
        Source of the resampling.
    confidence
        Confidence of the interval.
    resamples
        Number of bootstrap resamples.
    groups
        Patient of each value: whole patients are then resampled, since slices of one patient
        are not independent.

    Raises
    ------
    ValueError
        If there are no values, or one is not finite, or groups do not match.

    References
    ----------
    Efron, Bootstrap methods: another look at the jackknife, doi:10.1214/aos/1176344552.
    """
    x = _values(values)
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"{len(x)} values but {len(groups)} groups; give each value its group.")
    labels = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(labels, weights=x), np.bincount(labels)
    if len(counts) < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), len(x), confidence)
    draws = rng.integers(len(counts), size=(resamples, len(counts)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(x.mean()), float(low), float(high), len(x), confidence)


def t_mean(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval: for few independent values, such as seeds.

    Raises
    ------
    ValueError
        If there are no values or one is not finite.
    """
    x = _values(values)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), len(x), confidence)
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    mean = float(x.mean())
    return Interval(mean, mean - half, mean + half, len(x), confidence)


def paired_wilcoxon(ours: ArrayLike, rival: ArrayLike) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test on paired values; 1 if all are equal.

    Raises
    ------
    ValueError
        If the lengths differ, there are no values, or one is not finite.

    References
    ----------
    Wilcoxon, Individual comparisons by ranking methods, doi:10.2307/3001968.
    """
    a, b = _values(ours), _values(rival)
    if len(a) != len(b):
        raise ValueError(f"paired values differ in number: {len(a)} and {len(b)}.")
    if np.array_equal(a, b):
        return 1.0
    return float(stats.wilcoxon(a, b, zero_method="wilcox", method="auto").pvalue)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction: adjusted p-values in the input's order, at most 1.

    Parameters
    ----------
    p_values
        Shape ``(m,)``, each from 0 to 1.

    Raises
    ------
    ValueError
        If a p-value is outside [0, 1].

    References
    ----------
    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979) 65-70.
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must lie between 0 and 1.")
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def compare(
    ours: ArrayLike,
    rivals: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    groups: Sequence[str] | None = None,
) -> dict[str, Comparison]:
    """Compare ours with each rival on the same cases, corrected for their number.

    Parameters
    ----------
    ours
        A metric per case, shape ``(n,)``.
    rivals
        The same metric and cases for each rival.
    rng
        Source of the bootstrap.
    groups
        Patient of each case; the interval then resamples patients, and the test is made on
        patients' mean differences.

    Raises
    ------
    ValueError
        If the values do not pair up.
    """
    intervals, p_values = [], []
    for name, values in rivals.items():
        a, b = _values(ours), _values(values)
        if len(a) != len(b):
            raise ValueError(f"ours has {len(a)} cases but {name} {len(b)}; score the same cases.")
        difference = a - b
        intervals.append(bootstrap_mean(difference, rng, groups=groups))
        per_case = difference if groups is None else _group_means(difference, groups)
        p_values.append(paired_wilcoxon(per_case, np.zeros_like(per_case)))
    corrected = holm(p_values)
    return {
        name: Comparison(interval, p, float(adjusted))
        for name, interval, p, adjusted in zip(rivals, intervals, p_values, corrected, strict=True)
    }


def _group_means(values: FloatArray, groups: Sequence[str]) -> FloatArray:
    labels = np.unique(groups, return_inverse=True)[1]
    means: FloatArray = np.bincount(labels, weights=values) / np.bincount(labels)
    return means


def _values(values: ArrayLike) -> FloatArray:
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size == 0:
        raise ValueError("there are no values to average.")
    if not np.isfinite(x).all():
        raise ValueError("a value is NaN or infinite and cannot be averaged.")
    return x
