"""Tuning: the same budget for each, validation patients only, every option has a range."""

import json
import math
from pathlib import Path

import pytest

from fedm2ct.config import FedM2CTConfig, MethodConfig, parse_config
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods import METHODS
from fedm2ct.learning.trainer import DivergedError
from fedm2ct.pipeline import tuned, tuning
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.search_spaces import NOT_TUNED, SPACES
from fedm2ct.pipeline.settings import (
    SETTINGS,
    SIZES,
    load_setting,
    with_options,
)
from fedm2ct.pipeline.tuned import Tuned, read_record, read_tuned, values_of

from ..runs import cli

OPTIONS = {**{m: type(getattr(MethodConfig(), m)) for m in MethodConfig.model_fields},
           "fedm2ct": FedM2CTConfig}  # fmt: skip


EMPTY = {"setting": "hybrid", "methods": {}, "patients": []}


def jobs_here(jobs, workers, on_event):
    """Stand in for `run_jobs`, with results."""
    return {
        job.name: job.function(
            **job.arguments, on_event=lambda e, n=job.name: on_event({"job": n, **e})
        )
        for job in jobs
    }


@pytest.fixture
def here(monkeypatch, in_process, one_thread, small_phantoms, two_sites):
    monkeypatch.setattr(tuning, "run_jobs", jobs_here)


@pytest.mark.parametrize("method", OPTIONS)
def test_every_option_has_a_range_or_a_reason_for_none(method):
    fixed = set(NOT_TUNED.get(method, ()))
    ranges = set(SPACES[method])
    assert ranges | fixed == set(OPTIONS[method].model_fields)
    assert not ranges & fixed


def test_only_methods_have_ranges():
    assert set(SPACES) <= set(METHODS)


@pytest.mark.parametrize(("method", "option"), [(m, o) for m, os in SPACES.items() for o in os])
def test_ranges_hold_the_default_and_are_allowed(method, option):
    where = SPACES[method][option]
    config = load_setting("all-in-one", "tiny").config
    assert where.low <= tuning.defaults(config, method)[option] <= where.high
    for value in (where.low, where.high):
        value = int(value) if where.whole else value
        with_options(config, {method: {option: value}}, "range")
    assert where.low > 0 or not where.log


@pytest.mark.parametrize("method", SPACES)
def test_a_small_budget_looks_at_every_third_of_each_range(method):
    points = tuning.spread(method, 3)
    for option, where in SPACES[method].items():
        scale = math.log if where.log else float
        width = scale(where.high) - scale(where.low) + where.whole
        parts = [(scale(p[option]) - scale(where.low) + where.whole / 2) / width for p in points]
        assert sorted(int(3 * part) for part in parts) == [0, 1, 2]
    assert points == tuning.spread(method, 3)


def test_methods_are_not_searched_at_the_same_places():
    found = [tuning.spread(m, 3)[0]["mu"] for m in ("moon", "fedmri")]  # of equal ranges
    assert found[0] != found[1]


def test_a_trial_knows_validation_patients_only():
    setting = load_setting("all-in-one", "small")
    config = tuning.validation_config(setting)
    assert config.test == setting.validation != setting.config.test
    assert config.seeds == [tuning.TUNING_SEED]
    assert not set(config.seeds) & set(setting.config.seeds)
    assert config.sites == setting.config.sites


def tune(out, *options):
    return cli("tune", "all-in-one", "--size", "tiny", "--phantoms", "--out", out, *options)


def test_search_starts_at_the_defaults_repeats_and_feeds_the_benchmark(
    tmp_path, here, monkeypatch, capsys
):
    assert tune(tmp_path, "--method", "fedprox", "--budget", 3) == 0
    record = read_record(tmp_path / "tuned.json")
    found = record["methods"]["fedprox"]
    assert found["trials"][0]["values"]["mu"] == pytest.approx(0.01)
    assert len({t["values"]["mu"] for t in found["trials"]}) == 3
    assert found["in_use"] == found["trials"][0]  # the package has no options of this size
    assert {k: found[k] for k in ("values", "psnr_db")} in found["trials"]
    assert math.isfinite(found["psnr_db"]) and record["budget"] == 3
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert len(times) == 3
    assert not list(tmp_path.rglob("model.safetensors"))

    assert tune(tmp_path, "--method", "scaffold", "--method", "fedprox", "--budget", 3) == 0
    again = read_record(tmp_path / "tuned.json")
    assert again["methods"]["fedprox"] == found and "scaffold" in again["methods"]
    assert {p: p.stat().st_mtime_ns for p in times} == times

    with monkeypatch.context() as patch:  # refused before anything is run
        patch.setattr(tuning, "run_jobs", lambda *_: pytest.fail("a trial"))
        assert tune(tmp_path, "--method", "fedprox", "--budget", 2) == 1
        assert "tuning of another kind" in capsys.readouterr().err
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "tuned.json").write_text("{")
        assert tune(tmp_path / "damaged", "--method", "fedprox", "--budget", 3) == 1
        assert "tuned.json: is not a record of tuning" in capsys.readouterr().err
    setting = load_setting("all-in-one", "tiny")
    values = read_tuned(setting, tmp_path / "tuned.json").options
    assert values["fedprox"] == found["values"]
    assert setting.with_options(values).config.method.fedprox.mu == found["values"]["mu"]


def trial(value, score):
    return {"values": {"mu": value}, "psnr_db": score}


@pytest.mark.parametrize(("best", "kept"), [(30.09, True), (30.11, False), (None, True)])
def test_options_in_use_give_way_to_more_than_noise(best, kept):
    present, other = trial(0.1, 30.0), trial(0.2, best)
    assert tuning.chosen(present, [trial(0.3, 29.0), other]) == (present if kept else other)
    assert tuning.chosen(trial(0.1, None), [other, trial(0.3, 29.0)])["psnr_db"] == (best or 29.0)


@pytest.mark.parametrize("defaults", [False, True])
def test_options_in_use_are_tried_besides_the_budget(tmp_path, here, monkeypatch, defaults):
    used = Tuned({"fedprox": {"mu": 0.123}}, ["who chose them"])
    monkeypatch.setattr(tuned, "read_tuned", lambda _: used)
    options = ("--method", "fedprox", "--budget", 2)
    assert tune(tmp_path, *options, *["--defaults"][:defaults]) == 0
    record = read_record(tmp_path / "tuned.json")
    found = record["methods"]["fedprox"]
    assert len(found["trials"]) == 2
    assert found["in_use"]["values"] == {"mu": pytest.approx(0.01 if defaults else 0.123)}
    assert math.isfinite(found["in_use"]["psnr_db"])
    assert len(list(tmp_path.rglob("result.json"))) == 2 + (not defaults)
    assert ("who chose them" in record["patients"]) is not defaults


@pytest.mark.parametrize("diverged", ["trial-1", "trial-0", ""])
def test_a_trial_that_diverges_is_passed_over(tmp_path, here, monkeypatch, capsys, diverged):
    whole = tuning.run_unit

    def run_unit(config, method, seed, run, *others):
        if run.endswith(diverged):
            raise DivergedError("site A: the training has diverged")
        whole(config, method, seed, run, *others)

    monkeypatch.setattr(tuning, "run_unit", run_unit)
    every = diverged == ""
    assert tune(tmp_path, "--method", "fedprox", "--budget", 2) == every
    said = capsys.readouterr()
    assert "fedprox with {'mu': " in said.err and ": diverged  mu = " in said.err
    if every:
        assert "diverged with all options" in said.err
        return
    found = read_record(tmp_path / "tuned.json")["methods"]["fedprox"]
    first_is_in_use = diverged == "trial-0"
    scores = [entry["psnr_db"] is None for entry in found["trials"]]
    assert scores == [first_is_in_use, not first_is_in_use]
    assert found["values"] == found["trials"][first_is_in_use]["values"]
    assert ("those in use diverge" if first_is_in_use else "in use already") in said.out


def test_trials_may_have_fewer_rounds_than_the_benchmark(tmp_path, here, capsys):
    options = ("--method", "fedprox", "--budget", 1)
    assert tune(tmp_path, *options, "--rounds", 1) == 0
    assert read_record(tmp_path / "tuned.json")["rounds"] == 1
    log = next(tmp_path.rglob("metrics.jsonl")).read_text(encoding="utf-8")
    assert {json.loads(line)["round"] for line in log.splitlines()} == {1}
    assert tune(tmp_path, *options) == 1
    assert "tuning of another kind" in capsys.readouterr().err


def test_two_searches_in_a_folder_are_refused(tmp_path, here, capsys):
    with alone_in(tmp_path):
        assert tune(tmp_path, "--method", "fedprox", "--budget", 1) == 1
    assert f"another command is working in {tmp_path}" in capsys.readouterr().err


def test_what_cannot_be_tuned_is_refused(tmp_path, here, capsys):
    assert tune(tmp_path, "--method", "fedavg") == 1
    assert "'fedavg' has no options to tune" in capsys.readouterr().err


def test_records_of_other_settings_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "tuned.json"
    with pytest.raises(FedM2CTError, match="cannot be read"):
        read_tuned(load_setting("hybrid", "tiny"), path)
    path.write_text("{")
    with pytest.raises(FedM2CTError, match="not a record of tuning"):
        read_record(path)
    path.write_text(json.dumps({"setting": "unseen", "methods": {}, "patients": []}))
    with pytest.raises(FedM2CTError, match="was tuned for unseen, not hybrid"):
        read_tuned(load_setting("hybrid", "tiny"), path)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({**EMPTY, "methods": []}, "methods"),
        ({**EMPTY, "methods": {"fedprox": {"values": {"mu": "1"}}}}, "methods.fedprox"),
        ({**EMPTY, "methods": {"fedprox": []}}, "methods.fedprox"),
        ({**EMPTY, "patients": None}, "patients"),
        ({**EMPTY, "patients": [1]}, "patients"),
        ({"methods": {}}, "setting"),
        ([], "setting"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, record, field):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(record))
    with pytest.raises(FedM2CTError, match=rf"{path}: is not a record .* \(field '{field}"):
        read_tuned(load_setting("hybrid", "tiny"), path)


def test_an_option_that_does_not_exist_is_looked_for_in_the_file_that_has_it(tmp_path, capsys):
    path = tmp_path / "tuned.json"
    record = {**EMPTY, "methods": {"fedprox": {"values": {"nu": 1.0}}}}
    path.write_text(json.dumps(record))
    assert cli("benchmark", "hybrid", "--size", "tiny", "--tuned", path, "--out", tmp_path) == 1
    assert f"{path}: field 'method.fedprox.nu' is not known" in capsys.readouterr().err


def test_a_record_is_published_where_the_benchmark_looks(tmp_path, here, unasked_phantoms, capsys):
    options = ("--method", "fedprox", "--budget", 1, "--publish", tmp_path)
    assert tune(tmp_path / "o", *options) == 2
    assert "leave it or --phantoms out" in capsys.readouterr().err
    real = ("tune", "all-in-one", "--size", "tiny", "--out", tmp_path / "o", *options)
    assert cli(*real) == 1
    assert "is no checkout" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    (tmp_path / "src" / "fedm2ct" / "settings").mkdir(parents=True)
    assert cli(*real) == 0
    path = tmp_path / "src" / "fedm2ct" / "settings" / "tuned" / "all-in-one-tiny.json"
    assert read_record(path) == read_record(tmp_path / "o" / "tuned.json")


@pytest.mark.parametrize("own", [False, True])
def test_a_setting_may_be_tuned_as_another_one(tmp_path, monkeypatch, own):
    folder = tmp_path / "settings" / "tuned"
    folder.mkdir(parents=True)
    names = {"all-in-one": 0.3, **({"hybrid": 0.7} if own else {})}
    for name, mu in names.items():
        record = {**EMPTY, "setting": name, "methods": {"fedprox": {"values": {"mu": mu}}}}
        (folder / f"{name}-small.json").write_text(json.dumps(record))
    hybrid = load_setting("hybrid", "small")
    monkeypatch.setattr(tuned, "files", lambda _: tmp_path)
    assert read_tuned(hybrid).options == {"fedprox": {"mu": 0.7 if own else 0.3}}
    path = folder / "all-in-one-small.json"
    assert read_tuned(hybrid, path).options == {"fedprox": {"mu": 0.3}}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_packaged_options_were_not_tuned_on_what_the_benchmark_tests(name):
    tuned_on = read_tuned(load_setting(name, "small")).patients
    published = Path(__file__).parents[2] / "benchmarks" / "results" / f"{name}-small.json"
    tested = json.loads(published.read_text(encoding="utf-8"))["patients"]["test"]
    assert tuned_on and tested and not set(tuned_on) & set(tested)


def test_patients_that_were_tuned_on_are_not_tested(tmp_path, here, capsys):
    """Whatever their scans are called; nothing is trained and the folder stays free."""
    assert tune(tmp_path, "--method", "fedprox", "--budget", 1) == 0
    record = read_record(tmp_path / "tuned.json")
    benchmark = ("benchmark", "all-in-one", "--size", "tiny", "--phantoms", "--methods", "fbp")
    options = ("--tuned", tmp_path / "tuned.json", "--out", tmp_path / "out")
    assert cli(*benchmark, *options) == 0
    manifest = json.loads((tmp_path / "out" / "run" / "manifest.json").read_text())
    (patient,) = manifest["patients"]["test"]
    assert record["patients"] and patient not in record["patients"]
    record["patients"].append(patient)
    (tmp_path / "tuned.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert cli(*benchmark, *options[:2], "--out", tmp_path / "other") == 1
    assert f"options were tuned on its patient ({patient})" in capsys.readouterr().err
    assert not list((tmp_path / "other").rglob("*.json"))
    assert cli(*benchmark, "--defaults", "--out", tmp_path / "other") == 0


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", SIZES)
def test_tuned_options_of_the_package_fit_their_setting(name, size):
    setting = load_setting(name, size)
    config = setting.with_options(read_tuned(setting).options).config
    assert parse_config(config.model_dump(mode="json")) == config
    assert values_of({"methods": {}}) == {}
