"""Intervals that cover, tests against enumerated values, Holm by hand."""

import numpy as np
import pytest

from fedm2ct.evaluation.statistics import (
    bootstrap_mean,
    compare,
    holm,
    paired_wilcoxon,
    t_mean,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(21)


def test_bootstrap_repeats_under_a_seed_and_agrees_with_t_for_many_values():
    values = rng().normal(3.0, 2.0, 400)
    a, b, t = bootstrap_mean(values, rng()), bootstrap_mean(values, rng()), t_mean(values)
    assert a == b
    assert a.mean == t.mean == pytest.approx(values.mean())
    assert (a.low, a.high) == pytest.approx((t.low, t.high), abs=0.02)


def test_intervals_cover_as_often_as_they_say():
    source = rng()
    hits = {"bootstrap": 0, "t": 0}
    for _ in range(400):
        values = source.normal(0.0, 1.0, 12)
        for name, i in (
            ("bootstrap", bootstrap_mean(values, source, confidence=0.8, resamples=200)),
            ("t", t_mean(values, 0.8)),
        ):
            hits[name] += i.low <= 0 <= i.high
    assert 0.70 < hits["bootstrap"] / 400 < 0.85
    assert 0.75 < hits["t"] / 400 < 0.85


def test_t_interval_by_hand():
    i = t_mean([1.0, 2.0, 3.0])
    assert (i.mean, i.n) == (2.0, 3)
    assert i.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


def test_resampling_patients_widens_the_interval():
    patients = [p for p in "abcdef" for _ in range(20)]
    effect = np.repeat(rng().normal(0, 1, 6), 20)
    values = effect + rng().normal(0, 0.1, 120)
    slices, whole = bootstrap_mean(values, rng()), bootstrap_mean(values, rng(), groups=patients)
    assert whole.mean == pytest.approx(slices.mean)
    assert whole.high - whole.low > 2 * (slices.high - slices.low)


def test_one_value_or_one_patient_has_no_interval():
    for i in (bootstrap_mean([2.0], rng()), t_mean([2.0])):
        assert i.mean == 2.0 and np.isnan(i.low) and np.isnan(i.high)
    assert np.isnan(bootstrap_mean([1.0, 2.0], rng(), groups=["p", "p"]).low)


def test_wilcoxon_by_enumeration():
    # all 6 differences positive: 2 of the 64 sign patterns are as extreme
    ours = np.array([1.1, 2.3, 3.2, 4.9, 5.8, 7.0])
    assert paired_wilcoxon(ours, np.zeros(6)) == pytest.approx(2 / 64)
    assert paired_wilcoxon(ours, ours) == 1.0
    with pytest.raises(ValueError, match="differ in number"):
        paired_wilcoxon(ours, ours[:3])


def test_holm_by_hand():
    # 0.01*3 = 0.03; 0.02*2 = 0.04; 0.04*1 = 0.04, in the input's order
    np.testing.assert_allclose(holm([0.04, 0.01, 0.02]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_comparison_finds_the_worse_rival_only():
    ours = rng().normal(30, 2, 24)
    rivals = {
        "worse": ours - 1 - rng().normal(0, 0.3, 24),
        "equal": ours + np.random.default_rng(2).normal(0, 0.5, 24),
    }
    result = compare(ours, rivals, rng())
    assert list(result) == ["worse", "equal"]
    assert result["worse"].p_holm == pytest.approx(2 * result["worse"].p_value) and (
        result["worse"].p_holm < 0.001
    )
    assert result["worse"].difference.low > 0.8
    assert result["equal"].p_holm > 0.05
    with pytest.raises(ValueError, match="worse 3"):
        compare(ours, {"worse": ours[:3]}, rng())


def test_comparison_by_patients_tests_patients_not_slices():
    patients = [p for p in "abc" for _ in range(30)]
    ours = rng().normal(30, 1, 90)
    result = compare(ours, {"rival": ours - 1.0}, rng(), groups=patients)
    assert result["rival"].p_value == pytest.approx(2 / 8)


def test_bad_values_are_refused():
    for values in ([], [1.0, np.inf]):
        with pytest.raises(ValueError, match=r"values|NaN"):
            t_mean(values)
    with pytest.raises(ValueError, match="2 values but 1 groups"):
        bootstrap_mean([1.0, 2.0], rng(), groups=["a"])
