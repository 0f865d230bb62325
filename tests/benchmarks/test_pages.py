"""The generated pages of docs are what their stored records give now: none is edited or stale."""

import json
from pathlib import Path

import ablation_page
import hybrid
import hybrid_page
import lesions
import operators_page
import pytest
import results
import training_page

from fedm2ct.pipeline.settings import SETTINGS
from fedm2ct.report.benchmark_page import benchmark_page

from .conftest import ABLATIONS

ROOT = Path(__file__).parents[2]


def record(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def text(name):
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_s_page(setting):
    assert text(f"benchmark-{setting}-small") == benchmark_page(record(f"{setting}-small"))


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_s_page(name):
    assert text(name) == ablation_page.page(record(name))


@pytest.mark.parametrize(("name", "rounds"), [("hybrid", None), ("hybrid-4-rounds", 4)])
def test_a_page_of_losses_without_truth(name, rounds):
    titles = {row: of.title for row, of in hybrid.ROWS.items()}
    assert text(name) == hybrid_page.page(record(name), titles, rounds)


def test_the_lesions_page():
    name = "all-in-one-small"
    assert text(f"lesions-{name}") == lesions.page(record(f"lesions-{name}"), record(name))


@pytest.mark.parametrize(
    ("name", "made_from", "page"),
    [
        ("operators-benchmark", "operators", operators_page.page),
        ("training-benchmark", "training", training_page.page),
    ],
)
def test_a_page_of_speed(name, made_from, page):
    assert text(name) == page(record(made_from))


def test_the_results_page(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    results.page()
    assert text("results") == (tmp_path / "results.md").read_text("utf-8")
