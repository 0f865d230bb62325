"""Whole runs on a GPU: every method trains, resumes, joins and scores as on the CPU."""

import json
from typing import get_args

import numpy as np
import pytest
import torch

from fedm2ct.config import HybridConfig
from fedm2ct.pipeline import newcomer
from fedm2ct.pipeline.conventional import ALL_METHODS

from ..runs import cli, run_jobs_here, weights, write_config

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]
LOSSES = get_args(get_args(HybridConfig.model_fields["loss"].annotation)[0])


@pytest.fixture(autouse=True)
def here(in_process, one_thread, monkeypatch):
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)
    monkeypatch.setattr(newcomer, "run_jobs", run_jobs_here)


def psnr_by_site(run, method, seed):
    result = json.loads((run / method / f"seed-{seed}" / "result.json").read_text())
    return {site: outputs[""]["psnr_db"] for site, outputs in result["scores"].items()}


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_gpu_learns_what_the_cpu_learns(patients, tmp_path, monkeypatch, method):
    scores = {}
    for device in ("cuda", "cpu"):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda d=device: d == "cuda")
            config = write_config(tmp_path / f"{device}.toml", patients, methods=(method,))
            assert cli("train", config, "--out", tmp_path / device) == 0
        scores[device] = psnr_by_site(tmp_path / device, method, 4)
    assert set(scores["cuda"]) == set(scores["cpu"])
    for site, on_cpu in scores["cpu"].items():
        np.testing.assert_allclose(scores["cuda"][site], on_cpu, atol=0.05)


def test_a_run_broken_off_goes_on_on_the_gpu(patients, tmp_path):
    config = write_config(tmp_path / "run.toml", patients, methods=("fedm2ct",))
    assert cli("train", config, "--out", tmp_path / "whole") == 0
    assert cli("train", config, "--out", tmp_path / "broken") == 0
    unit = tmp_path / "broken" / "fedm2ct" / "seed-4"
    (unit / "result.json").unlink()
    last = sorted((unit / "checkpoints").iterdir())[-1]
    last.unlink()
    assert cli("train", config, "--out", tmp_path / "broken", "--resume") == 0
    assert set(weights(tmp_path / "whole")) == set(weights(tmp_path / "broken"))
    whole, broken = (psnr_by_site(tmp_path / name, "fedm2ct", 4) for name in ("whole", "broken"))
    for site, expected in whole.items():
        np.testing.assert_allclose(broken[site], expected, atol=0.05)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_site_without_pairs_learns_on_the_gpu(patients, tmp_path, loss):
    def unpaired(text):
        site = 'name = "B"'
        hybrid = f'[hybrid]\nloss = ["{loss}"]\n\n[training]'
        without = text.replace(site, f'{site}\nsupervision = "none"')
        return without.replace("[training]", hybrid)

    config = write_config(tmp_path / "run.toml", patients, methods=("fedm2ct",), change=unpaired)
    assert cli("train", config, "--out", tmp_path / "run") == 0
    assert np.isfinite(psnr_by_site(tmp_path / "run", "fedm2ct", 4)["B"]).all()


def test_a_site_joins_on_the_gpu(small_phantoms, two_sites, tmp_path):
    methods = "tv,local,scaffold,pooled,fedm2ct"
    options = ("--size", "tiny", "--phantoms", "--methods", methods, "--out", tmp_path)
    assert cli("benchmark", "unseen", *options) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["machine"]["gpu"]
    assert set(record["newcomer"]["methods"]) == set(methods.split(","))
