"""The ablation's variants, its run, its numbers and its page, on the smallest federation."""

import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import ablation
import numpy as np
import pytest
import setting_options
from ablation_page import page
from ablation_variants import FULL, variants

from fedm2ct.cli.options import loaded_setting
from fedm2ct.config import load_config, parse_config
from fedm2ct.errors import FedM2CTError
from fedm2ct.physics.protocols import protocol_to_dict
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.settings import load_setting
from tests import tiny

from .conftest import ABLATIONS

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
EXAMPLE = Path(__file__).parents[2] / "examples" / "small.toml"
EXPECTED = [
    *("no-exchange", "analytical", "no-prompt", "no-mutual", "no-ramp", "no-metamodel"),
    *("contributed", "alpha-half", "side-by-side"),
    *("local", "local-public", "local-analytical", "fedavg", "fedper", "pooled"),
]
COMMAND = re.compile(r"^python benchmarks/ablation\.py (.*)$", re.MULTILINE)
SOME = ["no-exchange", "no-metamodel", "contributed", "local"]


def in_this_process(jobs, workers, on_event):
    """Do what `run_jobs` does without starting processes."""
    for job in jobs:
        job.function(
            **job.arguments, on_event=lambda event, job=job: on_event({"job": job.name, **event})
        )


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return a function that runs the command line on a tiny configuration, and its paths."""
    monkeypatch.setattr(ablation, "run_jobs", in_this_process)
    scans = {}
    for index, name in enumerate(("a", "b", "test", "public")):
        scan = tiny.scan(name, index, slices=10)
        scans[name] = str(tmp_path / f"{name}.npz")
        np.savez(scans[name], hu=scan.hu, spacing_zyx_mm=np.array(scan.spacing_zyx_mm))
    data = tiny.config(training={"rounds": 4, "local_steps": 8}).model_dump(mode="json")
    for site, name in zip(data["sites"], ("a", "b"), strict=True):
        protocol = protocol_to_dict(tiny.PROTOCOLS[site["name"]])
        site.update(protocol=protocol, scans=[scans[name]], slices=6)
    data["test"] = {"scans": [scans["test"]], "slices": 3}
    data["meta"]["scans"] = [scans["public"]]
    data["fedm2ct"]["meta_steps"] = 4
    config = parse_config(data)
    monkeypatch.setattr(ablation, "load_config", lambda path: config)

    def run(*more):
        paths = ["--results", tmp_path / "r.json", "--page", tmp_path / "p.md"]
        given = ["tiny.toml", "--out", tmp_path / "out", *paths, "--rounds", 1, "--steps", 2]
        return ablation.main([str(a) for a in (*given, *more)])

    return run


def read(tmp_path):
    return json.loads((tmp_path / "r.json").read_text())


def test_run_resume_and_page(command, tmp_path, capsys):
    assert command("--seeds", 0, 1, "--variants", *SOME) == 0
    results = read(tmp_path)
    assert list(results["variants"]) == [
        FULL,
        "no-exchange",
        "no-metamodel",
        "contributed",
        "local",
    ]
    assert results["config"]["training"]["rounds"] == 1
    assert results["config"]["training"]["local_steps"] == 2
    assert results["config"]["fedm2ct"]["meta_steps"] == 1  # 4 : 8 as 1 : 2
    assert results["config"]["seeds"] == [0, 1]
    assert {"cpu", "cores", "gpu", "workers"} == results["machine"].keys()
    check_numbers(results, tmp_path / "out")
    text = (tmp_path / "p.md").read_text()
    assert "no exchange: two networks, no federation" in text and "`meta.source" in text

    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/*/*/seed-*/result.json")}
    assert len(done) == 10
    assert command("--seeds", 0, 1, "--variants", *SOME) == 1  # not without --resume
    assert "--resume" in capsys.readouterr().err
    assert command("--seeds", 0, 1, "--variants", *SOME, "--resume") == 0
    assert {p: p.stat().st_mtime_ns for p in done} == done  # nothing is done twice
    again = read(tmp_path)
    assert again["variants"] == results["variants"]


def check_numbers(results, out):
    """Compute what the results say from the units' own scores."""
    rows = results["variants"]

    def slices(variant, method, metric):
        scores = [
            json.loads((out / variant / method / f"seed-{k}" / "result.json").read_text())["scores"]
            for k in (0, 1)
        ]
        return np.array([[s[site][""][metric] for site in ("A", "B")] for s in scores])

    full, local = slices(FULL, "fedm2ct", "psnr_db"), slices("local", "local", "psnr_db")
    assert rows[FULL]["mean"]["psnr_db"] == pytest.approx(full.mean())
    assert rows["local"]["sites"]["B"]["psnr_db"] == pytest.approx(local[:, 1].mean())
    found = rows["local"]["difference"]["psnr_db"]
    assert found["mean"] == pytest.approx((local - full).mean())
    assert found["by_seed"] == pytest.approx([(local - full)[k].mean() for k in (0, 1)])
    assert found["low"] <= found["mean"] <= found["high"] and found["n_slices"] == 3
    assert rows[FULL]["difference"]["ssim"]["mean"] == 0
    assert set(rows[FULL]["outputs"]) == {"private", "shared"} and not rows["local"]["outputs"]
    assert rows[FULL]["bytes_per_round"] > 4 * rows["no-exchange"]["bytes_per_round"]
    assert all(row["seconds"] > 0 for row in rows.values())


def test_table_only_makes_the_page_again(command, tmp_path):
    assert command("--variants", "local") == 0
    first = (tmp_path / "p.md").read_text()
    (tmp_path / "p.md").unlink()
    assert command("--table-only") == 0
    assert (tmp_path / "p.md").read_text() == first


def test_a_folder_in_which_a_command_is_working_is_refused(command, tmp_path, capsys):
    with alone_in(tmp_path / "out"):
        assert command("--variants", "local") == 1
    assert "another command is working in" in capsys.readouterr().err


def test_a_folder_of_another_configuration_is_refused(command, tmp_path, capsys):
    assert command("--variants", "local") == 0
    assert command("--variants", "local", "--resume", "--steps", 3) == 1
    assert "another configuration" in capsys.readouterr().err


def test_every_variant_is_a_valid_configuration_that_differs_from_the_full_method():
    base = load_config(EXAMPLE).model_copy(update={"methods": ["fedm2ct"]})
    known = variants(base)
    assert next(iter(known)) == FULL
    assert known[FULL].config(base) == base
    configs = {name: v.config(base) for name, v in known.items()}
    ours = [c for name, c in configs.items() if known[name].method == "fedm2ct"]
    assert len({c.model_dump_json() for c in ours}) == len(ours)  # all of them are different
    longer = base.training.model_copy(update={"rounds": 24, "simulate_every": 3})
    for name, config in configs.items():  # same data, seeds and steps for all
        training = longer if name.endswith("long") else base.training
        assert (config.sites, config.test, config.seeds, config.training, config.image_size) == (
            base.sites,
            base.test,
            base.seeds,
            training,
            base.image_size,
        )
    for name in EXPECTED:
        assert name in known


@pytest.mark.parametrize(
    "own",
    [
        {"lambda_private": 0.3, "ramp_rounds": 0, "alpha": 0.5, "shared_input": "fbp"},
        {"lambda_private": 0.0, "lambda_shared": 0.0, "coupling": "side-by-side"},
    ],
)
def test_no_variant_repeats_the_full_method_whatever_that_is(own):
    data = tomllib.loads(EXAMPLE.read_text())
    data["fedm2ct"].update(own)
    base = parse_config({**data, "methods": ["fedm2ct"]})
    ours = [v.config(base) for v in variants(base).values() if v.method == "fedm2ct"]
    assert len({c.model_dump_json() for c in ours}) == len(ours)


@pytest.mark.parametrize("start", ["fbp", "tv", "scaled-tv"])
def test_no_rival_stands_there_twice(start):
    data = tomllib.loads(EXAMPLE.read_text())
    base = parse_config({**data, "model": {"start": start}, "methods": ["fedm2ct"]})
    known = variants(base)
    rows = [(v.method, v.config(base).model_dump_json()) for v in known.values()]
    assert len(set(rows)) == len(rows)
    assert ("local-tv" in known) == (start != "scaled-tv")


def test_an_unknown_variant_is_named(command, capsys):
    assert command("--variants", "no-promt") == 1
    assert "no-promt" in capsys.readouterr().err


def test_missing_results_are_an_error_of_one_sentence(tmp_path, capsys):
    assert ablation.main(["--table-only", "--results", str(tmp_path / "none.json")]) == 1
    assert "run the ablation first" in capsys.readouterr().err


def test_a_page_needs_no_rivals(command, tmp_path):
    assert command("--variants", "no-metamodel") == 0
    assert "Beside it" not in page(read(tmp_path))


def test_what_was_asked_for_is_in_the_files_names_and_on_the_page(tmp_path, command):
    asked = ["--rounds", "24", "--site-slices", "4"]
    options = ["--setting", "all-in-one", "--size", "tiny", *asked]
    options = ablation._parser().parse_args(options)
    ablation._name_files(options)
    assert options.page.name == "ablation-all-in-one-tiny-24-rounds-4-slices.md"
    assert command("--variants", "local", "--site-slices", 4) == 0
    results = read(tmp_path)
    assert {site["slices"] for site in results["config"]["sites"]} == {4}
    asked = "--rounds 1 --steps 2 --site-slices 4"
    assert f"ablation.py CONFIG.toml {asked} --variants local --out RUN" in page(results)
    results["config"]["name"] = "all-in-one-tiny"
    assert f"--setting all-in-one --size tiny {asked} --table-only" in page(results)


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_page_s_commands_make_it_again(name, monkeypatch):
    """They give the record's configuration (but for added scans) and write the same files."""
    monkeypatch.chdir(ablation.ROOT)
    files = [Path("benchmarks", "results", f"{name}.json"), Path("docs", f"{name}.md")]
    stored, text = (file.read_text(encoding="utf-8") for file in files)
    record, whole, again = json.loads(stored), *map(parsed, COMMAND.findall(text))
    for options in (whole, again):
        assert [p.resolve() for p in (options.results, options.page)] == [
            f.resolve() for f in files
        ]
        assert ablation._asked(options) == record["asked"]
    assert again.table_only
    whole.scans = whole.validation_patients = whole.test_patients = None
    base = ablation.base_config(ablation._given(whole)[0], whole)
    assert set(ablation.chosen(base, whole.variants)) == set(record["variants"])
    base = base.model_dump(mode="json")
    made, expected = (
        parse_config({**config, "test": record["config"]["test"], "sites": sites(config)})
        for config in (base, record["config"])
    )
    assert made == expected


def parsed(command):
    """Return a printed command's options; its configuration is the example's."""
    words = shlex.split(command.replace("CONFIG.toml", str(EXAMPLE)), comments=True)
    options = ablation._parser().parse_args(words)
    ablation._name_files(options)
    return options


def sites(config):
    """Return a configuration's sites with the first of their scans."""
    return [{**site, "scans": site["scans"][:1]} for site in config["sites"]]


def test_more_rounds_are_those_of_the_long_rows():
    base = load_config(EXAMPLE).model_copy(update={"methods": ["fedm2ct"]})
    longer = ablation._parser().parse_args(["--rounds", str(3 * base.training.rounds)])
    assert ablation.base_config(base, longer) == variants(base)["long"].config(base)
    fewer = ablation._parser().parse_args(["--rounds", "1"])
    assert ablation.base_config(base, fewer).training.simulate_every == 1


def test_rows_are_added_to_stored_results(command, tmp_path, capsys):
    assert command("--variants", "local", "--add") == 1
    assert "r.json: cannot be read" in capsys.readouterr().err
    assert command("--variants", "local", "no-metamodel") == 0
    whole = read(tmp_path)
    whole["variants"]["of-old"] = whole["variants"]["local"]
    del whole["config"]["fedm2ct"]["cross_protocol"]  # stored before there was such a field
    (tmp_path / "r.json").write_text(json.dumps(whole))
    assert command("--variants", "local") == 1  # --resume is missing
    assert command("--variants", "no-exchange", "local", "--add", "--resume") == 0
    added = read(tmp_path)
    assert list(added["variants"]) == [FULL, "no-exchange", "no-metamodel", "local", "of-old"]
    row = added["variants"]["no-exchange"]
    expected = row["mean"]["psnr_db"] - whole["variants"][FULL]["mean"]["psnr_db"]
    assert row["difference"]["psnr_db"]["mean"] == pytest.approx(expected)
    for name in ("local", "no-metamodel"):
        old, new = (r["variants"][name]["mean"] for r in (whole, added))
        assert new == old
    differences = [r["variants"]["local"]["difference"]["psnr_db"]["mean"] for r in (whole, added)]
    assert differences[0] == pytest.approx(differences[1])
    text = " ".join((tmp_path / "p.md").read_text().split())
    assert "no interval: *no exchange: two networks, no federation*; *local only*." in text
    assert command("--variants", "no-mutual", "--add", "--resume", "--seeds", 5) == 1
    assert "r.json: holds results of another configuration" in capsys.readouterr().err
    assert not (tmp_path / "out" / "no-mutual").exists()


def test_the_command_needs_a_configuration():
    with pytest.raises(FedM2CTError, match="--out"):
        ablation.run(ablation._parser().parse_args([]))


@pytest.mark.usefixtures("one_thread", "small_phantoms", "two_sites")
def test_a_setting_is_tested_on_its_validation_patients(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "run_jobs", in_this_process)
    monkeypatch.setattr(
        setting_options,
        "loaded_setting",
        lambda name, size, scans: replace(
            loaded_setting(name, size, {**scans, "phantoms": True}), added=" --scans DIR"
        ),
    )
    for folder in ("benchmarks/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    given = ["--setting", "all-in-one", "--size", "tiny", "--out", str(tmp_path / "out")]
    assert ablation.main([*given, "--variants", "no-prompt", "--workers", "1"]) == 0
    text = (tmp_path / "docs" / "ablation-all-in-one-tiny.md").read_text(encoding="utf-8")
    options = "--setting all-in-one --size tiny --scans DIR --variants no-prompt"
    assert f"ablation.py {options} --out RUN" in text
    stored = tmp_path / "benchmarks" / "results" / "ablation-all-in-one-tiny.json"
    results = json.loads(stored.read_text(encoding="utf-8"))
    setting = load_setting("all-in-one", "tiny", phantoms=True)
    assert results["config"]["test"]["scans"] == setting.validation.scans
    assert list(results["variants"]) == [FULL, "no-prompt"]
    assert ablation.main([*given, "examples/small.toml"]) == 1
    assert "a configuration or --setting" in capsys.readouterr().err
