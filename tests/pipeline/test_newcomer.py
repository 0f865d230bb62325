"""A site that joins later: what it starts from, and that it trains on its own slices only."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedm2ct.config import ConfigError
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.metrics import FULL_RANGE_HU, psnr
from fedm2ct.federation.methods.fedm2ct import build
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.model.prompt import condition_vector
from fedm2ct.model.start import analytical_input
from fedm2ct.pipeline import newcomer
from fedm2ct.pipeline.assess import to_hu
from fedm2ct.pipeline.benchmark import Benchmark
from fedm2ct.pipeline.benchmark_units import unpack
from fedm2ct.pipeline.newcomer import (
    COUNTS,
    choose_prompt,
    join_all,
    joined_config,
    joined_scores,
    last_shared,
)
from fedm2ct.pipeline.prepare import acquire_tests, read_cohort, site_protocols
from fedm2ct.pipeline.settings import load_setting
from fedm2ct.pipeline.site_files import scan_hash

from ..runs import cli, run_jobs_here

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
METHODS = ("fbp", "local", "fedrep", "pooled", "ditto", "fedm2ct")


@pytest.fixture(autouse=True)
def here(in_process, one_thread, small_phantoms, two_sites, monkeypatch):
    monkeypatch.setattr(newcomer, "run_jobs", run_jobs_here)


@pytest.fixture(scope="module")
def out(tmp_path_factory, one_thread, small_phantoms, two_sites):
    """The benchmark of the setting; not to be written to."""
    folder = tmp_path_factory.mktemp("unseen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
        patch.setattr(newcomer, "run_jobs", run_jobs_here)
        assert run(folder, "--methods", ",".join(METHODS)) == 0
    return folder


def run(folder, *options):
    return cli("benchmark", "unseen", "--size", "tiny", "--phantoms", "--out", folder, *options)


def scores(out, method):
    return json.loads((out / "run" / method / "seed-0" / "newcomer.json").read_text())["scores"]


def test_every_method_is_scored_with_every_number_of_slices(out):
    record = json.loads((out / "results.json").read_text())
    assert "F" not in {site["name"] for site in record["config"]["sites"]}
    assert set(record["newcomer"]["methods"]) == set(METHODS)
    for method, entry in record["newcomer"]["methods"].items():
        assert [int(c) for c in entry if c != "seeds"] == list(COUNTS)
        for count in map(str, COUNTS):
            found = scores(out, method)[count]["psnr_db"]
            assert entry[count]["psnr_db"]["mean"] == pytest.approx(np.mean(found))
    page = (out / "results.md").read_text()
    assert "## The site that joins" in page and "| Method | 0 | 1 | 5 | 20 |" in page


def test_without_slices_only_a_whole_shared_network_does_more_than_its_start(out, two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    cohort = read_cohort(joined_config(setting.config, setting.newcomer))
    tests = [(cohort.scans[s.scan], s.slices) for s in cohort.split["test"]]
    protocol = cohort.protocols["F"]
    data, _ = acquire_tests(tests, protocol, "F", 0)
    start = analytical_input(setting.config.model.start, data.projections, protocol)[:, :1]
    expected = psnr(to_hu(start), to_hu(data.truth), FULL_RANGE_HU)
    for method in ("local", "fedrep"):  # fedrep keeps the last layer, which is zero at the start
        assert scores(out, method)["0"]["psnr_db"] == pytest.approx(expected, abs=1e-4)
    for method in ("pooled", "ditto", "fedm2ct"):
        found = scores(out, method)["0"]["psnr_db"]
        assert np.abs(np.subtract(found, expected)).max() > 1e-3, method


def test_the_prompt_is_the_one_that_does_best_on_public_slices(two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    config = joined_config(setting.config, setting.newcomer)
    cohort = read_cohort(config)
    task = newcomer._task(cohort, "F", 0, 1)
    known = list(site_protocols(setting.config).values())
    trainer = build(Setup(config, [task], 0, cohort.public())).trainers["F"]
    model, draw = trainer.model, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.shared.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    conditions = [condition_vector(p) for p in known]
    candidates = [model.condition, torch.stack(conditions).mean(0), *conditions]
    (public,) = trainer.task.public_validation
    errors = []
    with torch.no_grad():
        seen = model.analytical(public.projections)
        for candidate in candidates:
            image = model.shared(seen, candidate)
            errors.append(-psnr(to_hu(image), to_hu(public.truth), FULL_RANGE_HU).mean())
    assert len(set(np.round(errors, 4))) > 1  # the prompt matters here
    choose_prompt(trainer, known)
    assert torch.equal(model.condition, candidates[int(np.argmin(errors))])


def test_training_changes_all_but_fbp(out):
    for method in METHODS:
        one, none = (scores(out, method)[c]["psnr_db"] for c in "10")
        assert (one == none) == (method == "fbp"), method


def test_the_pooled_network_is_that_of_the_last_round(out):
    shared = last_shared(out / "run" / "pooled" / "seed-0")
    assert shared and all(name.startswith("shared.") for name in shared)
    assert last_shared(out / "run" / "local" / "seed-0") == {}


def test_it_joins_once(out, capsys):
    path = out / "run" / "fedm2ct" / "seed-0" / "newcomer.json"
    before = path.stat().st_mtime_ns
    assert run(out, "--methods", "fedm2ct") == 0
    assert path.stat().st_mtime_ns == before


def test_units_that_the_site_has_still_to_join_are_not_kept(out, tmp_path, two_sites):
    shutil.copytree(out / "run", tmp_path / "run")
    bench = Benchmark(two_sites("unseen", "tiny", phantoms=True), tmp_path)
    assert set(bench.units()["units"]) == {f"{method}/0" for method in METHODS}
    (tmp_path / "run" / "ditto" / "seed-0" / "newcomer.json").unlink()
    assert set(bench.units()["units"]) == {f"{method}/0" for method in METHODS if method != "ditto"}
    assert "ditto" in bench.finished()


def test_what_the_site_left_damaged_is_done_again(out, tmp_path, two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    (tmp_path / "newcomer.json").write_text("[]")
    assert not joined_scores(setting.config, setting.newcomer, "fbp", tmp_path)


def test_units_that_the_site_has_joined_otherwise_are_not_restored(out, tmp_path, two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    file, run_folder = tmp_path / "units.json", tmp_path / "run"
    file.write_text(json.dumps(Benchmark(setting, out).units()))
    site = setting.newcomer.model_copy(update={"scans": ["phantom-20"]})
    other = replace(setting, newcomer=site)
    why = "joined otherwise, or not at all, by site F"
    assert unpack(file, run_folder, other) == {why: len(METHODS)}
    assert unpack(file, run_folder, setting) == {"": len(METHODS)}


def test_no_site_joins_a_unit_without_a_model(out, tmp_path, two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    shutil.copytree(out / "run", tmp_path / "run")
    folder = tmp_path / "run" / "ditto" / "seed-0"
    (folder / "newcomer.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    config = setting.config.model_copy(update={"methods": ["ditto"], "seeds": [0]})
    with pytest.raises(FedM2CTError, match=f"{folder}: has no checkpoint .* remove the folder"):
        join_all(config, setting.newcomer, tmp_path / "run", 1, print)


def test_a_patient_of_the_training_may_not_join(out, two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    config = setting.config.model_copy(update={"methods": ["fbp"], "seeds": [0]})
    known = setting.newcomer.model_copy(update={"scans": [config.sites[0].scans[0]]})
    with pytest.raises(ConfigError, match="'F', which joins, is one of 'A'"):
        join_all(config, known, out / "run", 1, print)


def test_a_copy_of_a_scan_of_the_training_may_not_join(two_sites):
    setting = two_sites("unseen", "tiny", phantoms=True)
    cohort = read_cohort(joined_config(setting.config, setting.newcomer))
    copied = {"sha256": scan_hash(cohort.scans[setting.newcomer.scans[0]])}
    roles = {"A": {"patients": ["somebody else"], "scans": {"a": copied}}}
    with pytest.raises(ConfigError, match="'F', which joins, is one of 'A'"):
        newcomer._refuse_known(cohort, setting.newcomer, roles)


def test_it_takes_a_quarter_of_the_rounds_alone():
    setting = load_setting("unseen", "small")
    joined = joined_config(setting.config, setting.newcomer)
    assert [site.name for site in joined.sites] == ["F"]
    assert joined.training.rounds == setting.config.training.rounds // 4
    assert joined.training.local_steps == setting.config.training.local_steps
