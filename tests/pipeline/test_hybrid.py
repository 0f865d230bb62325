"""A run with a site without normal-dose images, from scans to scores."""

import json
import math

import pytest
import torch

from fedm2ct.config import ConfigError, load_config, parse_config
from fedm2ct.data.simulate import PairedData
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.pipeline import prepare, train
from fedm2ct.pipeline.prepare import read_cohort, site_tasks
from fedm2ct.pipeline.train import check_pairs
from tests import runs, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def unpaired(text):
    return text.replace('name = "A"\n', 'name = "A"\nsupervision = "none"\n')


@pytest.fixture
def config(tmp_path):
    scans = runs.write_patients(tmp_path / "scans")
    return load_config(runs.write_config(tmp_path / "c.toml", scans, change=unpaired))


def test_a_site_without_pairs_gets_measurements_alone(config):
    tasks = {task.name: task for task in site_tasks(read_cohort(config), 1)}
    for data in (tasks["A"].train, tasks["A"].validation):
        assert not hasattr(data, "truth") and not hasattr(data, "clean")
    assert not tasks["A"].paired and tasks["B"].paired
    paired = parse_config({**config.model_dump(), "sites": _paired(config)})
    whole = {task.name: task for task in site_tasks(read_cohort(paired), 1)}
    assert torch.equal(whole["A"].train.projections, tasks["A"].train.projections)


def _paired(config):
    return [{**site.model_dump(), "supervision": "paired"} for site in config.sites]


@pytest.mark.parametrize("method", ["fedm2ct", "fedfdd", "local"])
def test_its_truth_may_be_anything(method, config, monkeypatch):
    """NaN in its place, and all that is learned is the same to the bit."""
    real, states = prepare.simulate, []

    def spoilt(scan, slices, protocol, noise):
        data = real(scan, slices, protocol, noise)
        if protocol.name != "demo-sparse":
            return data
        nothing = torch.full_like(data.truth, math.nan)
        return PairedData(data.projections, nothing, torch.full_like(data.clean, math.nan))

    for simulate in (real, spoilt):
        monkeypatch.setattr(prepare, "simulate", simulate)
        cohort = read_cohort(config)
        halves = METHODS[method](Setup(config, site_tasks(cohort, 4), 4, cohort.public()))
        shared = halves.server.initial_shared()
        for round_index in (1, 2):
            uploads = [halves.clients[n].fit(round_index, shared) for n in sorted(halves.clients)]
            taking_part = [u for u in uploads if not u.abstains]
            shared = halves.server.aggregate(round_index, shared, taking_part).shared
        states.append({n: dict(t.best) for n, t in halves.trainers.items()})
    for site in ("A", "B"):
        assert tiny.same(states[0][site], states[1][site])
        assert all(bool(torch.isfinite(t).all()) for t in states[1][site].values())


def test_a_whole_run_scores_the_site_all_the_same(tmp_path, config, monkeypatch):
    monkeypatch.setattr(train, "run_jobs", runs.run_jobs_here)
    methods = ["fbp", "local", "fedavg", "pooled", "fedm2ct"]
    config = parse_config({**config.model_dump(), "methods": methods})
    summary = train.run_all(
        config, tmp_path / "run", resume=False, workers=1, on_event=lambda _: None
    )
    for method in methods:
        assert math.isfinite(summary["methods"][method]["sites"]["A"]["psnr_db"])
        assert summary["methods"][method]["sites"]["A"]["lpips"] is None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    wanted = ("fedm2ct", "A", "round")
    log = [e for e in map(json.loads, lines) if (e["method"], e["site"], e["event"]) == wanted]
    assert len(log) == runs.ROUNDS and all("val_public_psnr_db" in e for e in log)
    assert (tmp_path / "run" / "report.html").exists()


def test_somebody_must_have_pairs(config):
    sites = [{**site.model_dump(), "supervision": "none"} for site in config.sites]
    with pytest.raises(ConfigError, match="supervision = 'paired'"):
        check_pairs(parse_config({**config.model_dump(), "sites": sites}))
