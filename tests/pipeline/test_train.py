"""A whole run: the same seed gives the same bits; resuming knows what has changed."""

import json
import math
import shutil

import pytest

from fedm2ct.pipeline.run_lock import alone_in

from ..runs import cli, leftovers, weights, write_config, write_patients


@pytest.fixture(autouse=True)
def no_report(monkeypatch, in_process, one_thread):
    """Draw no figures."""
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)


def train(folder, patients, *options, name="run", **changes):
    config = write_config(folder / f"{name}.toml", patients, **changes)
    return cli("train", config, "--out", folder / name, *options)


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize("method", ["local", "fedavg", "fedper", "pooled", "fedm2ct"])
def test_the_same_seed_gives_the_same_bits(patients, tmp_path, method):
    for name in ("first", "second"):
        assert train(tmp_path, patients, name=name, methods=(method,), rounds=2) == 0
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first == second != {}
    found = [summary(tmp_path / name)["methods"] for name in ("first", "second")]
    assert found[0] == found[1]


def test_another_seed_gives_another_model(finished, patients, tmp_path):
    other = {"change": lambda text: text.replace("seeds = [4]", "seeds = [5]")}
    assert train(tmp_path, patients, methods=("local",), **other) == 0
    mine = list(weights(tmp_path / "run" / "local" / "seed-5").values())
    assert mine != list(weights(finished / "local" / "seed-4").values())


def test_the_run_folder_is_that_of_the_design(finished):
    names = {"manifest.json", "metrics.jsonl", "summary.json", "report.html"}
    assert names <= {p.name for p in finished.iterdir()}
    assert set(manifest(finished)) >= {"config", "seeds", "versions", "scans", "git_commit"}
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    rounds = [(line["method"], line["round"]) for line in lines if line["site"] == "server"]
    assert rounds == [(m, r) for m in ("local", "fedm2ct") for r in (1, 2, 3)]
    assert not leftovers(finished)


def test_patients_are_where_the_configuration_puts_them(finished):
    found = manifest(finished)["patients"]
    assert {role: len(patients) for role, patients in found.items()} == {
        "A": 1, "B": 2, "test": 1, "meta": 1
    }  # fmt: skip
    everybody = [patient for patients in found.values() for patient in patients]
    assert len(set(everybody)) == len(everybody)


def test_the_summary_holds_every_method_site_and_patient(finished):
    found = summary(finished)
    assert set(found) >= {"methods", "reference", "seed", "config", "versions"}
    assert list(found["methods"]) == ["fbp", "local", "fedm2ct"]
    for scores in found["methods"].values():
        assert set(scores["sites"]) == {"A", "B"}
        assert {"psnr_db", "ssim", "rmse_hu", "n_slices"} <= set(scores["mean"])
        assert list(scores["sites"]["A"]["patients"]) == manifest(finished)["patients"]["test"]


def test_resuming_a_finished_run_changes_nothing(patients, tmp_path, capsys):
    assert train(tmp_path, patients) == 0
    run = tmp_path / "run"
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.parent != run}
    created = manifest(run)["created"]
    capsys.readouterr()
    assert train(tmp_path, patients, "--resume") == 0
    assert "fedm2ct, seed 4: is done already" in capsys.readouterr().err
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.parent != run}
    assert after == before
    assert manifest(run)["created"] == created


def test_a_folder_in_which_a_command_is_working_is_refused(finished, patients, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with alone_in(tmp_path / "run"):
        assert train(tmp_path, patients, "--resume") == 1
    assert f"another command is working in {tmp_path / 'run'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_a_method_can_be_added_later(finished, patients, tmp_path):
    assert train(tmp_path, patients, methods=("fbp",)) == 0
    assert train(tmp_path, patients, "--resume", methods=("fbp", "local")) == 0
    assert weights(tmp_path / "run" / "local") == weights(finished / "local") != {}
    assert list(summary(tmp_path / "run")["methods"]) == ["fbp", "local"]


def test_other_test_patients_are_scored_without_training_again(patients, tmp_path, capsys):
    assert train(tmp_path, patients, methods=("fbp", "local")) == 0
    before, scored = weights(tmp_path / "run"), summary(tmp_path / "run")
    capsys.readouterr()
    other = {"change": lambda text: text.replace("dan.npz", "new.npz")}
    assert train(tmp_path, patients, "--resume", methods=("fbp", "local"), **other) == 0
    said = capsys.readouterr().err
    assert "local, seed 4: goes on after round 3" in said
    assert weights(tmp_path / "run") == before
    for method in ("fbp", "local"):
        entry = summary(tmp_path / "run")["methods"][method]["sites"]["A"]
        assert entry["psnr_db"] != scored["methods"][method]["sites"]["A"]["psnr_db"]
        assert list(entry["patients"]) == manifest(tmp_path / "run")["patients"]["test"]


def test_a_training_that_has_diverged_leaves_no_model(patients, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedm2ct.learning.trainer.validation_psnr", lambda *_: math.nan)
    assert train(tmp_path, patients, methods=("local",), rounds=1) == 1
    assert "site A: the training has diverged" in capsys.readouterr().err
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_scan_that_has_changed_since_is_refused(tmp_path, capsys):
    scans = write_patients(tmp_path / "scans")
    assert train(tmp_path, scans, methods=("fbp",)) == 0
    (scans / "ann.npz").write_bytes((scans / "new.npz").read_bytes())
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    assert train(tmp_path, scans, "--resume", methods=("fbp",)) == 1
    assert "ann.npz: this scan has changed since the run" in capsys.readouterr().err
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
