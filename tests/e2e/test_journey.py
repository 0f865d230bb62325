"""The whole way as users go it: real processes, worker processes, the built-in demo offline."""

import json

import pytest

from fedm2ct.cli.demo import demo_config
from fedm2ct.data.samples import SamplesUnavailable
from fedm2ct.pipeline.train import run_all

from ..runs import run_jobs_here, start, weights, write_config

pytestmark = pytest.mark.e2e


def test_two_workers_give_what_one_process_gives(finished, patients, tmp_path):
    methods = ("local", "fedm2ct")
    config = write_config(tmp_path / "tiny.toml", patients, methods=methods)
    process = start("train", config, "--out", tmp_path / "run", "--workers", 2)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert weights(tmp_path / "run") == weights(finished) != {}
    found, expected = (
        json.loads((folder / "summary.json").read_text())["methods"]
        for folder in (tmp_path / "run", finished)
    )
    assert found == {method: expected[method] for method in methods}
    rows = [line.split()[:3] for line in said.splitlines()]
    for method in ("local", "fedm2ct"):
        assert [method, "4", "3/3"] in rows
    assert "\r" not in said  # no bar where there is no terminal
    assert "Traceback" not in said
    assert ".py:" not in said
    table = [line for line in out.splitlines() if line.split()[:1] in ([m] for m in methods)]
    assert len(table) == 2
    assert "report.html" in out
    assert out.splitlines()[-1].startswith("Done in ")


def test_the_demo_without_a_network_runs_on_phantoms(tmp_path, monkeypatch, one_thread):
    def fail(names):
        raise SamplesUnavailable("no network")

    monkeypatch.setattr("fedm2ct.data.samples.fetch_many", fail)
    monkeypatch.setattr("fedm2ct.data.samples.is_cached", lambda name: False)
    monkeypatch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
    monkeypatch.setattr("fedm2ct.pipeline.phantom_scans._SLICES", 6)
    monkeypatch.setattr("fedm2ct.pipeline.phantom_scans._SIZE", 64)
    monkeypatch.setattr("fedm2ct.pipeline.phantom_scans._PIXEL_MM", 6.4)
    whole = demo_config("demo-quick")
    training = whole.training.model_copy(update={"rounds": 1, "local_steps": 1})
    changes = {
        "image_size": 16,
        "training": training,
        "model": whole.model.model_copy(update={"width": 2}),
        "fedm2ct": whole.fedm2ct.model_copy(update={"meta_steps": 1}),
    }
    small = whole.model_copy(update=changes)
    summary = run_all(small, tmp_path / "run", resume=False, workers=1, on_event=lambda _: None)
    assert list(summary["methods"]) == whole.methods
    assert len(summary["methods"]["fedm2ct"]["sites"]) == 4
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "phantom" in report
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert all(name.startswith("phantom-") for name in manifest["scans"])
