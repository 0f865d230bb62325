"""SIRT and TV in a run: set up on validation slices, stored, and used again."""

import json

import pytest
import torch

from fedm2ct.learning.losses import validation_psnr
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.noise import statistical_weights
from fedm2ct.physics.operators import Projector
from fedm2ct.pipeline import conventional
from fedm2ct.pipeline.conventional import CHOICES, choose, reconstructor_of
from tests import tiny

from ..runs import cli, write_config

METHODS = ("fbp", "sirt", "tv")


@pytest.fixture
def quick(monkeypatch):
    """Choose from two values and make few iterations."""
    monkeypatch.setattr(
        conventional,
        "CHOICES",
        {"sirt": ("iterations", (1, 20)), "tv": ("strength", (1e-4, 1.0))},
    )
    monkeypatch.setattr(conventional, "TV_ITERATIONS", 60)


@pytest.fixture(scope="module")
def validation():
    return tiny.paired(tiny.FAN, 7, 3)


def test_the_number_of_sirt_iterations_is_the_best_on_validation_slices(validation):
    chosen = choose("sirt", tiny.FAN, validation)
    projector = Projector(tiny.FAN.geometry, tiny.FAN.grid)
    reached = {
        n: validation_psnr(sirt(validation.projections, projector, int(n)), validation.truth)
        for n in CHOICES["sirt"][1]
    }
    assert chosen["iterations"] == max(reached, key=reached.get)
    assert chosen["validation_psnr_db"] == pytest.approx({f"{n:g}": r for n, r in reached.items()})


def test_tv_is_chosen_and_is_better_than_fbp(validation):
    chosen = choose("tv", tiny.FAN, validation)
    reached = chosen["validation_psnr_db"]
    assert len(reached) == len(CHOICES["tv"][1])
    assert reached[f"{chosen['strength']:g}"] == max(reached.values())
    plain = reconstructor_of("fbp", tiny.FAN, {})(validation.projections)
    assert max(reached.values()) > validation_psnr(plain, validation.truth) + 1


def test_rays_count_by_their_noise(validation):
    fan = tiny.FAN
    weights = statistical_weights(validation.projections, fan.photons, fan.electronic_noise)
    counts = tiny.FAN.photons * torch.exp(-validation.projections)
    expected = counts**2 / (counts + tiny.FAN.electronic_noise**2)
    torch.testing.assert_close(weights.mean((-2, -1)), torch.ones(3, 1))
    ratio = weights / expected
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))


def test_fbp_has_nothing_to_choose(validation):
    assert choose("fbp", tiny.FAN, validation) == {}


def test_a_run_stores_what_was_chosen_and_reconstructs_with_it(
    quick, patients, tmp_path, monkeypatch, in_process, one_thread
):
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)
    config = write_config(tmp_path / "c.toml", patients, methods=METHODS)
    run = tmp_path / "run"
    assert cli("train", config, "--out", run) == 0
    result = json.loads((run / "tv" / "seed-4" / "result.json").read_text())
    assert result["settings"].keys() == {"A", "B"}
    assert result["settings"]["A"]["strength"] == 1e-4  # the other one leaves a single value
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["methods"]) == list(METHODS)
    for method in METHODS:
        assert summary["methods"][method]["sites"]["A"]["residual"] > 0
    assert summary["methods"]["fbp"]["mean"]["residual_to_fbp"] == pytest.approx(1, rel=1e-4)

    # chosen once: a resumed run and an evaluation take what is stored
    monkeypatch.setattr(conventional, "CHOICES", {})
    (run / "tv" / "seed-4" / "result.json").unlink()
    assert cli("train", config, "--out", run, "--resume") == 0
    again = json.loads((run / "tv" / "seed-4" / "result.json").read_text())
    assert again | {"from": result["from"]} == result  # it may be another day
    scan, out = patients / "new.npz", tmp_path / "out"
    assert cli("evaluate", run, "--scan", scan, "--slices", 1, "--out", out) == 0
    assert json.loads((out / "metrics.json").read_text())["methods"]["sirt"]["mean"]["psnr_db"] > 0


def test_a_run_without_settings_says_what_to_do(
    quick, patients, tmp_path, monkeypatch, in_process, one_thread, capsys
):
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)
    run = tmp_path / "run"
    config = write_config(tmp_path / "c.toml", patients, methods=("sirt",))
    assert cli("train", config, "--out", run) == 0
    (run / "sirt" / "seed-4" / "settings.json").unlink()
    arguments = ["--scan", patients / "new.npz", "--slices", 1, "--out", tmp_path / "out"]
    assert cli("evaluate", run, *arguments) == 1
    assert "settings.json: holds no settings of site A" in capsys.readouterr().err
