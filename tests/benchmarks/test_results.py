"""The page of results: what counts as a case."""

from types import SimpleNamespace

import numpy as np
import pytest
import results

from fedm2ct.evaluation.statistics import bootstrap_mean

SLICES = 5


@pytest.fixture
def scores(monkeypatch):
    """Stand in for a run of two methods, two seeds and three sites."""
    draw = np.random.default_rng(1)
    values = {
        (method, seed, site): draw.normal(size=SLICES)
        for method in ("fedm2ct", "local")
        for seed in (0, 1)
        for site in "ABC"
    }
    config = SimpleNamespace(methods=["fedm2ct", "local"], seeds=[0, 1])
    monkeypatch.setattr(results, "config_of", lambda run: config)
    monkeypatch.setattr(
        results,
        "read_result",
        lambda run, method, seed: {
            site: {"": {"psnr_db": values[method, seed, site].tolist()}} for site in "ABC"
        },
    )
    return values


def test_a_slice_under_another_protocol_or_seed_is_no_further_case(scores, tmp_path):
    found = results.comparisons(results.by_slice(tmp_path, "psnr_db"))["local"]["difference"]
    by_method = {
        method: np.mean([v for key, v in scores.items() if key[0] == method], axis=0)
        for method in ("fedm2ct", "local")
    }
    expected = bootstrap_mean(by_method["fedm2ct"] - by_method["local"], np.random.default_rng(0))
    assert found["n"] == SLICES
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_a_difference_without_interval_is_a_plain_number():
    stored = {"difference": {"mean": 1.5, "low": None, "high": None}, "p_holm": None}
    compared = {metric: {"local": stored} for metric in results.METRICS}
    assert (
        results.comparison_table(compared, "slice")[-1] == "| local | +1.50 | +1.5000 | +1.5 |  |"
    )
