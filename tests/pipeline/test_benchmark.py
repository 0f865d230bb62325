"""The benchmark from command to page: every method runs, what is done is not done again."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.statistics import bootstrap_mean, holm, paired_wilcoxon
from fedm2ct.federation.jobs import JobError
from fedm2ct.federation.methods import METHODS
from fedm2ct.model.start import iterative
from fedm2ct.pipeline.benchmark import Benchmark
from fedm2ct.pipeline.benchmark_scores import Costs, scores_of
from fedm2ct.pipeline.benchmark_units import places, timed_on, unpack
from fedm2ct.pipeline.conventional import CONVENTIONAL
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.train import check_scans
from fedm2ct.pipeline.unit import unit_folder
from fedm2ct.report.benchmark_page import benchmark_page
from fedm2ct.report.style import label
from fedm2ct.report.tables import MISSING

from ..runs import cli, leftovers, run_jobs_here, weights

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
COSTS = Costs(seconds=2.0, rounds=4, bytes_up=8e6, bytes_down=4e6)


@pytest.fixture(autouse=True)
def here(in_process, one_thread, small_phantoms, two_sites):
    """Run units in this process."""


def benchmark(out, *options, phantoms=("--phantoms",)):
    return cli("benchmark", "all-in-one", "--size", "tiny", *phantoms, "--out", out, *options)


@pytest.fixture
def published(unasked_phantoms):
    """A benchmark whose results may be published."""
    return partial(benchmark, phantoms=())


def record_of(out):
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread, small_phantoms, two_sites):
    """A benchmark of every method; not to be written to."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
        assert benchmark(out) == 0
    return out


def test_every_method_runs_and_is_in_the_record(whole):
    record = record_of(whole)
    assert list(record["methods"]) == [*CONVENTIONAL, *METHODS]
    for method, entry in record["methods"].items():
        assert entry["seeds"] == [0]
        assert set(entry["sites"]) == {"A", "E"}
        assert np.isfinite([entry["mean"][m]["mean"] for m in ("psnr_db", "ssim", "rmse_hu")]).all()
        apart = (*CONVENTIONAL, "local", "local_public", "pooled", "pooled_plain")
        shares = method not in apart
        assert (entry["costs"]["bytes_up"] > 1e4) == shares
        assert (entry["costs"]["rounds"] == 2) == (method not in CONVENTIONAL)
    assert record["n_patients"] == len(record["patients"]["test"]) == 1
    assert record["left_out"] == []
    assert {"versions", "machine", "date", "git_commit", "config"} <= set(record)
    assert not leftovers(whole)


def test_the_page_is_made_from_the_record(whole):
    page = (whole / "results.md").read_text()
    record = record_of(whole)
    assert page.startswith("# Benchmark: all-in-one, tiny\n")
    mean = record["methods"]["fedprox"]["mean"]["psnr_db"]["mean"]
    begin = f"| {label('fedprox')} |"
    rows = [r for r in page.splitlines() if r.startswith(begin) and r.endswith("| 0 |")]
    assert f"| {mean:.2f} |" in rows[0]
    assert "With one test patient there is no interval" in page
    assert "By slice, for there is one patient" in page


def test_the_page_calls_no_residual_the_best_and_marks_a_reference_once(whole):
    parts = (whole / "results.md").read_text().split("\n\n")
    tables = {part: parts[place + 1] for place, part in enumerate(parts) if "\n" not in part}
    (residual,) = (title for title in tables if title.startswith("Residual of the projections"))
    (psnr,) = (title for title in tables if title.startswith("PSNR, dB (higher is better); best"))
    assert "best" not in residual and "**" not in tables[residual]
    assert tables[psnr].count("**") == 2 * len(record_of(whole)["config"]["sites"])
    assert "| Pooled\\* |" in tables[residual] and "| Pooled\\* |" in tables[psnr]


def test_what_is_done_is_not_done_again_and_methods_and_seeds_may_be_added(tmp_path, capsys):
    assert benchmark(tmp_path, "--methods", "fbp,fedavg", "--seeds", "0") == 0
    first, before = weights(tmp_path), record_of(tmp_path)
    assert set(before["methods"]) == {"fbp", "fedavg"}
    capsys.readouterr()
    assert benchmark(tmp_path, "--methods", "fedprox,fedavg", "--seeds", "0, 1") == 0
    said = capsys.readouterr().err
    assert "fedavg, seed 0: is done already" in said and "fedprox, seed 0: is" not in said
    after = record_of(tmp_path)
    seeds = {method: entry["seeds"] for method, entry in after["methods"].items()}
    assert seeds == {"fbp": [0], "fedavg": [0, 1], "fedprox": [0, 1]}
    assert after["methods"]["fbp"] == before["methods"]["fbp"]
    assert {name: weights(tmp_path)[name] for name in first} == first


def test_an_option_of_one_method_leaves_the_others_alone(tmp_path, capsys):
    assert benchmark(tmp_path, "--methods", "fedavg,fedprox") == 0
    tuned = tmp_path / "tuned.json"
    found = {"fedprox": {"values": {"mu": 0.5}}}
    tuned.write_text(json.dumps({"setting": "all-in-one", "methods": found, "patients": []}))
    assert benchmark(tmp_path, "--methods", "fedavg", "--tuned", tuned) == 0
    record = record_of(tmp_path)
    assert set(record["methods"]) == {"fedavg"} and not record["tuned"]
    capsys.readouterr()
    assert benchmark(tmp_path, "--methods", "fedprox", "--tuned", tuned) == 1
    assert "was trained with other options of fedprox" in capsys.readouterr().err
    assert benchmark(tmp_path / "new", "--methods", "fedprox", "--tuned", tuned) == 0
    assert record_of(tmp_path / "new")["tuned"] == {"fedprox": {"mu": 0.5}}
    command = "fedm2ct benchmark all-in-one --size tiny --phantoms"
    assert record_of(tmp_path)["command"] == record_of(tmp_path / "new")["command"]
    assert record_of(tmp_path)["command"] == f"{command} --tuned FILE"
    assert benchmark(tmp_path, "--methods", "fedavg", "--defaults") == 0
    assert record_of(tmp_path)["command"] == f"{command} --defaults"
    assert "`mu` = 0.5" in (tmp_path / "new" / "results.md").read_text()


def test_the_page_has_intervals_and_sites_without_pairs(whole):
    record = record_of(whole)
    results = {m: {0: scores(o, tuple("pqrs"))} for m, o in (("fedm2ct", 1.0), ("fedavg", 0.0))}
    record |= scores_of(results, dict.fromkeys(results, COSTS), ["B"])
    page = benchmark_page(record)
    assert "## Sites without normal-dose images" in page
    mean = record["methods"]["fedavg"]["mean"]["psnr_db"]
    assert f"| FedAvg | {mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}] |" in page
    assert "95 %, bootstrap over the 4 test patients" in page
    assert "With 4 patients the smallest p, before the correction, is 0.12" in page
    assert "| FedAvg | +1.00 [+1.00, +1.00]; 0.12 |" in page


def test_the_record_and_the_page_say_where_units_were_made(whole):
    record = record_of(whole)
    units = len([*CONVENTIONAL, *METHODS])
    (here,) = record["from"]
    assert here["units"] == units
    assert here["git_commit"] == record["git_commit"]
    assert here["machine"].items() <= record["machine"].items()
    page = benchmark_page(record)
    assert f"Units: {units} on {here['machine']['cpu']} (" in page
    assert "They are of the units" not in page
    assert record["timed_on"] == here["machine"]
    there = {**here, "units": 5, "machine": {**here["machine"], "cpu": "Another", "gpu": "A card"}}
    page = benchmark_page(record | {"from": [here, there]})
    assert f"; 5 on Another ({here['machine']['cores']} cores, A card), {here['date']}, " in page
    assert f"They are of the units made on {here['machine']['cpu']} (" in page
    page = benchmark_page(record | {"from": [here, there], "timed_on": None})
    assert "They are of the units made on a machine that they do not name alone." in page


def test_seconds_of_unlike_machines_are_not_averaged(tmp_path, two_sites):
    setting = two_sites("all-in-one", "tiny", phantoms=True)
    card = {"cpu": "X", "cores": 16, "gpu": "A card"}

    def made(method, seed, machine, seconds, day=1):
        folder = unit_folder(tmp_path / "run", method, seed)
        folder.mkdir(parents=True)
        place = {"machine": machine, "date": f"2026-01-{day:02d}"} if machine else None
        (folder / "result.json").write_text(json.dumps({"from": place} if place else {}))
        line = {"event": "round", "round": 1, "seconds": seconds, "bytes_up": 6, "bytes_down": 2}
        lines = [{**line, "site": site} for site in ("A", "server")]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))

    made("local", 0, {**card, "gpu": None}, 10.0, day=2)
    made("fedavg", 0, {**card, "gpu": None}, 20.0, day=2)
    made("local", 1, card, 1.0, day=3)
    made("fedavg", 1, card, 2.0, day=3)
    made("local", 2, card, 1.0, day=3)
    found = places(tmp_path / "run", {"local": [0, 1, 2], "fedavg": [0, 1]})
    earliest = timed_on(found)
    assert earliest == {**card, "gpu": None}  # as many methods as on the card
    bench = Benchmark(setting, tmp_path)
    assert bench.costs("local", found["local"], earliest).seconds == 20.0
    assert bench.costs("local", found["local"], card).seconds == 2.0
    assert bench.costs("local", found["local"], card).bytes_up == 6
    made("tv", 0, card, 0.5, day=3)
    found |= places(tmp_path / "run", {"tv": [0]})
    assert timed_on(found) == card
    assert bench.costs("tv", found["tv"], earliest).seconds is None
    made("sirt", 0, None, 0.5)
    made("fbp", 0, None, 0.5)
    assert timed_on(places(tmp_path / "run", {"sirt": [0], "fbp": [0], "tv": [0]})) is None


def test_a_method_without_a_timed_unit_has_no_seconds_on_the_page(whole):
    record = record_of(whole)
    record["methods"]["fedavg"]["costs"]["seconds"] = None
    costs = benchmark_page(record).split("## Cost")[1].split("## ")[0]
    (row,) = [line for line in costs.splitlines() if line.startswith("| FedAvg |")]
    assert row.endswith(f"| {MISSING} |")


def test_units_made_elsewhere_keep_their_place(tmp_path, monkeypatch):
    assert benchmark(tmp_path, "--methods", "fbp") == 0
    elsewhere = {"cpu": "Another", "cores": 4, "gpu": None}
    monkeypatch.setattr("fedm2ct.pipeline.provenance.machine", lambda: dict(elsewhere))
    assert benchmark(tmp_path, "--methods", "fbp,sirt") == 0
    assert [p["machine"] == elsewhere for p in record_of(tmp_path)["from"]] == [False, True]
    assert [p["units"] for p in record_of(tmp_path)["from"]] == [1, 1]


def test_methods_share_what_their_networks_start_from(tmp_path, monkeypatch):
    made = []

    def counted(*arguments):
        made.append(arguments)
        return iterative(*arguments)

    monkeypatch.setattr("fedm2ct.model.start.iterative", counted)
    assert benchmark(tmp_path / "alone", "--methods", "local") == 0
    alone = len(made)
    assert benchmark(tmp_path / "beside", "--methods", "local,fedavg") == 0
    assert len(made) == 2 * alone > 0


def test_collect_trains_nothing(tmp_path, capsys):
    assert benchmark(tmp_path, "--collect") == 1
    assert "no unit is finished yet" in capsys.readouterr().err
    assert benchmark(tmp_path, "--collect", "--methods", "fbq") == 1
    assert "'fbq' is not known; did you mean 'fbp'?" in capsys.readouterr().err
    assert benchmark(tmp_path, "--methods", "fbp") == 0
    (tmp_path / "results.json").unlink()
    assert benchmark(tmp_path, "--collect") == 0
    assert set(record_of(tmp_path)["methods"]) == {"fbp"}


def test_nothing_is_run_or_restored_where_a_command_is_working(tmp_path, capsys):
    (tmp_path / "units.json").write_text('{"format": 1, "units": {}}')
    with alone_in(tmp_path / "run"):
        assert benchmark(tmp_path, "--methods", "fbp") == 1
        assert benchmark(tmp_path, "--collect", "--restore", tmp_path / "units.json") == 1
        assert capsys.readouterr().err.count("another command is working in") == 2
        assert benchmark(tmp_path, "--collect") == 1
        assert "no unit is finished yet" in capsys.readouterr().err


def test_folders_put_aside_and_damaged_results_do_not_count(tmp_path):
    assert benchmark(tmp_path, "--methods", "fbp,sirt") == 0
    (tmp_path / "run" / "fbp" / "seed-0").rename(tmp_path / "run" / "fbp" / "seed-0-old")
    assert benchmark(tmp_path, "--collect") == 0
    assert set(record_of(tmp_path)["methods"]) == {"sirt"}
    (tmp_path / "run" / "sirt" / "seed-0" / "result.json").write_text("[]")
    assert benchmark(tmp_path, "--collect") == 1


def test_the_others_go_on_when_a_method_fails(tmp_path, monkeypatch, capsys):
    def failing(jobs, workers, on_event):
        for job in jobs:
            if job.name.startswith("fedavg"):
                raise JobError("fedavg/seed-0: no luck", job=job.name)
            run_jobs_here([job], workers, on_event)

    monkeypatch.setattr("fedm2ct.pipeline.train.run_jobs", failing)
    assert benchmark(tmp_path, "--methods", "fedavg,fbp") == 1
    assert "fedavg/seed-0: no luck" in capsys.readouterr().err
    assert set(record_of(tmp_path)["methods"]) == {"fbp"}


def test_results_are_published_into_a_checkout(published, tmp_path, capsys):
    assert published(tmp_path / "out", "--methods", "fbp", "--publish", tmp_path) == 1
    assert "is no checkout" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    checkout(tmp_path)
    assert published(tmp_path / "out", "--methods", "fbp", "--publish", tmp_path) == 0
    data = tmp_path / "benchmarks" / "results" / "all-in-one-tiny.json"
    assert json.loads(data.read_text()) == record_of(tmp_path / "out")
    page = tmp_path / "docs" / "benchmark-all-in-one-tiny.md"
    assert page.read_text() == (tmp_path / "out" / "results.md").read_text()


def test_numbers_of_phantoms_are_not_published(tmp_path, capsys):
    checkout(tmp_path)
    assert benchmark(tmp_path / "out", "--methods", "fbp", "--publish", tmp_path) == 2
    assert "leave it or --phantoms out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_are_tuned_or_the_defaults(tmp_path, capsys):
    assert benchmark(tmp_path, "--defaults", "--tuned", tmp_path / "tuned.json") == 2
    assert "--tuned and --defaults exclude each other" in capsys.readouterr().err


def checkout(folder):
    for part in ("benchmarks/results", "docs"):
        (folder / part).mkdir(parents=True)
    return folder


def test_units_that_were_published_are_not_run_again_elsewhere(
    published, tmp_path, monkeypatch, capsys
):
    first = checkout(tmp_path / "first")
    assert published(tmp_path / "a", "--methods", "fbp,fedavg", "--publish", first) == 0
    units = first / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    started = []

    def counted(jobs, workers, on_event):
        started.extend(job.name for job in jobs)
        run_jobs_here(jobs, workers, on_event)

    monkeypatch.setattr("fedm2ct.pipeline.train.run_jobs", counted)
    capsys.readouterr()
    options = ("--methods", "fbp,fedavg,local", "--restore", units, "--publish", first)
    assert published(tmp_path / "b", *options) == 0
    assert started == ["local/seed-0"]
    assert "Restored: 2 finished units" in capsys.readouterr().err
    before, after = record_of(tmp_path / "a"), record_of(tmp_path / "b")
    for method in ("fbp", "fedavg"):
        old, new = (r["methods"][method] for r in (before, after))
        assert new["mean"]["psnr_db"]["mean"] == pytest.approx(old["mean"]["psnr_db"]["mean"], 1e-5)
        assert new["costs"] == pytest.approx(old["costs"], rel=1e-5)
    assert sum(place["units"] for place in after["from"]) == 3
    again = json.loads(units.read_text())["units"]
    assert set(again) == {"fbp/0", "fedavg/0", "local/0"}


def test_rounds_of_a_site_that_did_not_count_are_told_here_and_where_units_are_restored(
    published, tmp_path
):
    place, method = checkout(tmp_path), ("--methods", "fedavg")
    assert published(tmp_path / "a", *method) == 0
    refused = {"event": "dropped", "round": 2, "site": "E", "reason": "too long", "seconds": 1.0}
    with (unit_folder(tmp_path / "a" / "run", "fedavg", 0) / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(refused) + "\n")
    assert published(tmp_path / "a", *method, "--collect", "--publish", place) == 0
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    assert published(tmp_path / "b", *method, "--collect", "--restore", units) == 0
    for out in (tmp_path / "a", tmp_path / "b"):
        (told,) = record_of(out)["left_out"]
        assert told == {
            "method": "fedavg", "seed": 0, "round": 2, "site": "E", "reason": "too long",
        }  # fmt: skip
        assert "- FedAvg, seed 0, round 2, site E: too long" in (out / "results.md").read_text()
        costs = record_of(out)["methods"]["fedavg"]["costs"]
        assert costs["rounds"] == 2


def test_units_made_otherwise_do_not_count(published, tmp_path, two_sites):
    place = checkout(tmp_path)
    assert published(tmp_path / "a", "--methods", "fedprox", "--publish", place) == 0
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    setting, run = two_sites("all-in-one", "tiny", phantoms=True), tmp_path / "b" / "run"
    other = setting.with_options({"fedprox": {"mu": 0.9}})
    assert unpack(units, run, other) == {"trained on other scans or with other options": 1}
    tests = setting.config.test.model_copy(update={"slices": 1})
    other = replace(setting, config=setting.config.model_copy(update={"test": tests}))
    assert unpack(units, run, other) == {"scored on other test scans or otherwise": 1}
    assert not run.exists()
    assert unpack(units, run, setting) == {"": 1}
    assert Benchmark(setting, tmp_path / "b").finished() == {"fedprox": [0]}
    assert unpack(units, run, setting) == {"in the folder already, finished or begun": 1}


def test_restoring_leaves_a_unit_that_has_begun(published, tmp_path, capsys):
    place = checkout(tmp_path)
    assert published(tmp_path / "a", "--methods", "fbp,fedprox", "--publish", place) == 0
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    begun = unit_folder(tmp_path / "b" / "run", "fedprox", 0)
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "metrics.jsonl").write_text("{}\n")
    capsys.readouterr()
    assert published(tmp_path / "b", "--collect", "--restore", units) == 0
    said = capsys.readouterr().err
    assert "Restored: 1 finished units\nNot restored: 1 in the folder already" in said
    assert (begun / "metrics.jsonl").read_text() == "{}\n" and len(list(begun.iterdir())) == 2


@pytest.fixture
def units_of_another(published, tmp_path):
    """A published fbp unit of patient "another", and the test patient's own name."""
    place = checkout(tmp_path)
    assert published(tmp_path / "a", "--methods", "fbp", "--publish", place) == 0
    (patient,) = record_of(tmp_path / "a")["patients"]["test"]
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    units.write_text(units.read_text().replace(f'"{patient}"', '"another"'))
    return units, patient


def test_units_of_other_test_patients_are_refused_before_training(
    published, units_of_another, tmp_path, monkeypatch, capsys
):
    units, patient = units_of_another
    monkeypatch.setattr("fedm2ct.pipeline.train.run_jobs", lambda *_: pytest.fail("trains"))
    assert published(tmp_path / "b", "--methods", "fbp,local", "--restore", units) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'b' / 'run' / 'fbp' / 'seed-0'}: was scored on other test patients" in said
    assert f"(another, {patient}: on one side only)" in said


@pytest.mark.parametrize("options", [("--methods", "sirt"), ("--collect",)])
def test_units_of_other_test_patients_do_not_get_into_the_record(
    published, units_of_another, tmp_path, capsys, options
):
    units, patient = units_of_another
    assert published(tmp_path / "b", "--restore", units, *options) == 1
    assert f"(another, {patient}: on one side only)" in capsys.readouterr().err
    assert not (tmp_path / "b" / "results.json").exists()


def test_units_of_other_slices_of_the_same_patients_are_refused(tmp_path):
    folder = tmp_path / "fbp" / "seed-0"
    folder.mkdir(parents=True)
    result = {"scores": {"A": {"": {"patients": ["p", "q", "q"]}}}}
    (folder / "result.json").write_text(json.dumps(result))
    slices = [{"patient": "p", "slices": [4]}, {"patient": "q", "slices": [2, 6]}]
    check_scans(folder, {"slices": {"test": slices}})
    for other in (slices[::-1], [{"patient": "p", "slices": [4, 5]}, slices[1]]):
        with pytest.raises(FedM2CTError, match=r"on other test slices .* \(of the same patients\)"):
            check_scans(folder, {"slices": {"test": other}})


@pytest.mark.parametrize("options", [("--methods", "sirt"), ("--collect",)])
def test_units_that_were_trained_on_other_scans_under_the_same_paths_are_refused(
    published, tmp_path, capsys, options
):
    place = checkout(tmp_path)
    assert published(tmp_path / "a", "--methods", "fedavg", "--publish", place) == 0
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    content = json.loads(units.read_text())
    result = content["units"]["fedavg/0"]["result"]
    manifest = json.loads((tmp_path / "a" / "run" / "manifest.json").read_text())
    assert result["trained_on"] == manifest["trained_on"]
    result["trained_on"] = "of other voxels"
    units.write_text(json.dumps(content))
    assert published(tmp_path / "b", "--restore", units, *options) == 1
    folder = tmp_path / "b" / "run" / "fedavg" / "seed-0"
    assert f"{folder}: was trained on other slices" in capsys.readouterr().err
    assert not (tmp_path / "b" / "results.json").exists()
    del result["trained_on"]  # as of an older version
    units.write_text(json.dumps(content))
    assert published(tmp_path / "c", "--restore", units, "--collect") == 0


def test_restored_units_are_collected_without_a_run(published, tmp_path):
    place = checkout(tmp_path)
    assert published(tmp_path / "a", "--methods", "fbp", "--publish", place) == 0
    units = place / "benchmarks" / "results" / "all-in-one-tiny-units.json"
    assert published(tmp_path / "b", "--collect", "--restore", units) == 0
    before, after = record_of(tmp_path / "a"), record_of(tmp_path / "b")
    assert (after["patients"], after["config"]) == (before["patients"], before["config"])
    assert set(after["methods"]) == {"fbp"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "holds no units"),
        ('{"format": 1, "units": {"../../x/0": {}}}', "holds no units"),
        ('{"format": 1, "units": {"fbp/0": {"result": {}}}}', "holds no units"),
        ('{"format": 2, "units": {}}', "another format"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_units_is_refused(content, why, tmp_path, capsys):
    file = tmp_path / "units.json"
    if content is not None:
        file.write_text(content)
    assert benchmark(tmp_path / "out", "--methods", "fbp", "--restore", file) == 1
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_finished_units_of_another_configuration_do_not_count(whole, two_sites):
    setting = two_sites("all-in-one", "tiny", phantoms=True)
    other = setting.with_options({"fedprox": {"mu": 0.9}})
    left = Benchmark(other, whole).finished()
    assert set(left) == {*CONVENTIONAL, *METHODS} - {"fedprox"}


def scores(offset, patients=("p", "p", "q", "r")):
    """Two sites' scores: a ramp over slices, and an offset."""
    ramp = np.arange(len(patients), dtype=float)
    site = {m: (ramp + offset).tolist() for m in ("psnr_db", "ssim", "rmse_hu")}
    other = {m: (2 * ramp + offset).tolist() for m in ("psnr_db", "ssim", "rmse_hu")}
    return {s: {"": {**v, "patients": list(patients)}} for s, v in (("A", site), ("B", other))}


def test_patients_sites_and_seeds_are_averaged_in_this_order():
    found = scores_of({"fedm2ct": {0: scores(0.0), 1: scores(1.0)}}, {"fedm2ct": COSTS})
    entry = found["methods"]["fedm2ct"]
    a, b = np.array([0.5, 2.0, 3.0]) + 0.5, np.array([1.0, 4.0, 6.0]) + 0.5
    assert entry["sites"]["A"]["psnr_db"]["mean"] == pytest.approx(a.mean())
    assert [p["psnr_db"] for p in entry["patients"].values()] == pytest.approx(list((a + b) / 2))
    interval = bootstrap_mean((a + b) / 2, np.random.default_rng(0))
    assert entry["mean"]["psnr_db"]["mean"] == pytest.approx(interval.mean)
    assert entry["mean"]["psnr_db"]["low"] == pytest.approx(interval.low)
    assert entry["mean"]["psnr_db"]["n"] == found["n_patients"] == 3
    means = [entry["by_seed"][seed]["psnr_db"] for seed in ("0", "1")]  # patients count alike
    assert np.mean(means) == pytest.approx(interval.mean)
    assert means[1] - means[0] == pytest.approx(1.0)
    assert entry["costs"]["bytes_up"] == 8e6


def test_rivals_are_paired_by_patient_over_common_seeds():
    patients = tuple("abcdefg")
    rng = np.random.default_rng(1)

    def noisy(shift):
        made = scores(shift, patients)
        for site in made.values():
            site[""]["psnr_db"] = (np.array(site[""]["psnr_db"]) + rng.normal(size=7)).tolist()
        return made

    ours, a, b = {0: noisy(1.0), 1: noisy(5.0)}, {0: noisy(0.0)}, {0: noisy(-1.0), 1: noisy(4.0)}
    results = {"fedm2ct": ours, "fedavg": a, "fedprox": b}
    found = scores_of(results, dict.fromkeys(results, COSTS))["compared"]
    assert found["case"] == "patient"

    def by_patient(by_seed, seeds):
        return np.mean(
            [[by_seed[s][site][""]["psnr_db"] for site in "AB"] for s in seeds], axis=(0, 1)
        )

    differences = {
        "fedavg": by_patient(ours, [0]) - by_patient(a, [0]),
        "fedprox": by_patient(ours, [0, 1]) - by_patient(b, [0, 1]),
    }
    p = [paired_wilcoxon(d, np.zeros(7)) for d in differences.values()]
    rows = found["metrics"]["psnr_db"]
    for (name, difference), corrected in zip(differences.items(), holm(p), strict=True):
        assert rows[name]["mean"] == pytest.approx(difference.mean())
        assert rows[name]["p_holm"] == pytest.approx(corrected)
    assert rows["fedavg"]["seeds"] == [0]


def test_one_patient_is_compared_by_slice_and_has_no_interval():
    results = {m: {0: scores(o, ("p",) * 4)} for m, o in (("fedm2ct", 1.0), ("fedavg", 0.0))}
    found = scores_of(results, dict.fromkeys(results, COSTS))
    assert found["compared"]["case"] == "slice"
    assert found["compared"]["metrics"]["psnr_db"]["fedavg"]["n"] == 4
    assert found["methods"]["fedavg"]["mean"]["ssim"]["low"] is None


def test_further_metrics_are_taken_up_and_missing_ones_left_out():
    made = scores(0.0)
    for site in made.values():
        site[""] |= {"lpips": [0.1, 0.3, 0.2, 0.4], "distance": 1.5, "absent": None}
        site[""]["rmse_hu"] = [1.0, float("nan"), 2.0, float("nan")]
    found = scores_of({"fedm2ct": {0: made}}, {"fedm2ct": COSTS})
    mean = found["methods"]["fedm2ct"]["mean"]
    assert mean["lpips"]["mean"] == pytest.approx(0.8 / 3)
    assert (mean["distance"]["mean"], mean["distance"]["low"]) == (1.5, None)
    assert "absent" not in mean and not found["lacking"]
    assert (mean["rmse_hu"]["mean"], mean["rmse_hu"]["n"]) == (1.5, 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_metric_that_a_seed_lacks_is_left_out_and_the_unit_named(whole, seed):
    results = {m: {0: scores(o), 1: scores(o)} for m, o in (("fedm2ct", 1.0), ("fedavg", 0.0))}
    for method, by_seed in results.items():
        for number, made in by_seed.items():
            there = (method, number) != ("fedavg", seed)
            for site in made.values():
                site[""]["lpips"] = [0.1, 0.3, 0.2, 0.4] if there else None
                site[""]["frechet_vgg16_relu3_3"] = 1.5 if there else None
    found = scores_of(results, dict.fromkeys(results, COSTS), ["B"])
    assert found["lacking"] == {m: {"fedavg": [seed]} for m in ("frechet_vgg16_relu3_3", "lpips")}
    means = {method: set(entry["mean"]) for method, entry in found["methods"].items()}
    assert means["fedm2ct"] - means["fedavg"] == set(found["lacking"])
    page = benchmark_page(record_of(whole) | found)
    assert f"LPIPS: not scored in FedAvg (seed {seed}), so these methods have none." in page


def test_sites_without_pairs_have_a_mean_of_their_own():
    results = {"fedm2ct": {0: scores(1.0)}}
    entry = scores_of(results, {"fedm2ct": COSTS}, ["B"])["methods"]["fedm2ct"]
    assert entry["mean_without_pairs"]["ssim"] == entry["sites"]["B"]["ssim"]
    assert "mean_without_pairs" not in scores_of(results, {"fedm2ct": COSTS})["methods"]["fedm2ct"]
