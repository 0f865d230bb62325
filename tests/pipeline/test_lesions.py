"""The planted-lesion test on a finished run."""

import json
import shutil

import numpy as np
import pytest

from fedm2ct.pipeline.lesions import read_lesions, trained_since
from fedm2ct.pipeline.manifest import config_of

from ..runs import cli, write_config


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Take pixels of 25 mm for what they are: any tissue of the body, and narrow rings, will do."""
    with pytest.MonkeyPatch.context() as patch:
        lesions = "fedm2ct.evaluation.lesions."
        patch.setattr(lesions + "SOFT_TISSUE_HU", (-2000.0, 2000.0))
        patch.setattr(lesions + "_GAP_PIXELS", 0.5)
        patch.setattr(lesions + "_RING_PIXELS", 1.0)
        yield


OPTIONS = ("--diameter", 30, "--contrast", -40, "--contrast", 60)


@pytest.fixture(scope="module")
def planted(finished, tmp_path_factory):
    """A copy of a finished run with lesions as large as its pixels ask for."""
    run = tmp_path_factory.mktemp("planted") / "run"
    shutil.copytree(finished, run)
    before = (run / "report.html").stat().st_size
    assert cli("lesions", run, *OPTIONS) == 0
    assert (run / "report.html").stat().st_size > before
    return run


def test_the_file_holds_every_method_site_and_lesion(planted):
    found = json.loads((planted / "lesions.json").read_text())
    assert found["methods"].keys() == {"fbp", "local", "fedm2ct"}
    assert found["diameters_mm"] == [30.0] and found["contrasts_hu"] == [-40.0, 60.0]
    for method in found["methods"].values():
        for site, entry in method["sites"].items():
            number = len(found["sites"][site]["lesions"])
            assert number > 0 and entry["recovered"]["n"] == number
            assert len(entry["percent"]["recovered"]) == number
            assert np.mean(entry["percent"]["direct"]) == pytest.approx(
                entry["direct"]["mean"], abs=0.01
            )
            assert set(entry["by_kind"]) <= {"30 mm, -40 HU", "30 mm, +60 HU"}
        mean = np.mean([entry["recovered"]["mean"] for entry in method["sites"].values()])
        assert method["mean"]["recovered"] == pytest.approx(mean)


def test_it_is_the_same_again_and_of_these_test_patients(planted, finished):
    before = json.loads((planted / "lesions.json").read_text())
    assert cli("lesions", planted, *OPTIONS) == 0
    assert json.loads((planted / "lesions.json").read_text()) == before
    config = config_of(planted)
    assert read_lesions(config, planted) == before
    assert read_lesions(config, finished) is None
    other = config.model_copy(update={"test": config.test.model_copy(update={"slices": 1})})
    assert read_lesions(other, planted) is None


def test_lesions_of_models_that_were_trained_anew_are_not_shown(planted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(planted, run)
    config, found = config_of(run), json.loads((run / "lesions.json").read_text())
    path = run / "local" / "seed-4" / "result.json"
    result = json.loads(path.read_text())
    assert found["methods"]["local"]["unit"] == {n: result[n] for n in ("trained", "from")}
    assert trained_since(found, run) == []
    result["from"]["date"] = "2020-01-01"
    path.write_text(json.dumps(result))
    assert trained_since(found, run) == ["local"]
    assert read_lesions(config, run) is None
    for method in found["methods"].values():
        del method["unit"]  # as an older version wrote it
    (run / "lesions.json").write_text(json.dumps(found))
    assert read_lesions(config, run) == found


def test_lesions_that_find_no_room_are_refused(planted, capsys):
    assert cli("lesions", planted, "--diameter", 300) == 1
    assert "has room in soft tissue for a lesion of 300 mm" in capsys.readouterr().err
    assert cli("lesions", planted, "--contrast", 0) == 2


def test_some_methods_alone_leave_the_report(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    report = (run / "report.html").read_bytes()
    assert cli("lesions", run, *OPTIONS, "--methods", "fbp,local") == 0
    assert json.loads((run / "lesions.json").read_text())["methods"].keys() == {"fbp", "local"}
    assert (run / "report.html").read_bytes() == report
    assert cli("lesions", run, "--methods", "fedavg") == 1
    assert "fedavg with seed 4 is not finished" in capsys.readouterr().err
    before = (run / "lesions.json").read_bytes()
    assert cli("lesions", run, "--methods", "fbq") == 1
    assert "there is no method 'fbq'; did you mean 'fbp'?" in capsys.readouterr().err
    assert cli("lesions", run, "--methods", ",") == 1
    assert "--methods names no method" in capsys.readouterr().err
    assert (run / "lesions.json").read_bytes() == before


def test_a_seed_of_an_earlier_call_has_the_methods_of_that_call(
    finished, patients, tmp_path, in_process, monkeypatch, capsys
):
    run, scan = tmp_path / "run", patients / "new.npz"
    shutil.copytree(finished, run)
    restored = run / "fedavg" / "seed-4" / "result.json"  # one without models, which does not count
    restored.parent.mkdir(parents=True)
    shutil.copy(run / "local" / "seed-4" / "result.json", restored)
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)
    later = write_config(
        tmp_path / "later.toml",
        patients,
        methods=("fbp",),
        change=lambda text: text.replace("seeds = [4]", "seeds = [5]"),
    )
    assert cli("train", later, "--out", run, "--resume") == 0
    assert cli("lesions", run, *OPTIONS, "--seed", 4) == 0
    found = json.loads((run / "lesions.json").read_text())
    assert found["seed"] == 4 and found["methods"].keys() == {"fbp", "local", "fedm2ct"}
    options = ("--scan", scan, "--slices", 1, "--site", "A", "--out", tmp_path / "out")
    assert cli("evaluate", run, *options, "--seed", 4) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["methods"].keys() == {"fbp", "local", "fedm2ct"}
    assert cli("evaluate", run, *options) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["seed"], metrics["methods"].keys()) == (5, {"fbp"})
    (run / "fbp" / "seed-6-old").mkdir()  # put aside by hand
    assert cli("lesions", run, "--seed", 9) == 1
    assert "the run has no seed 9; it has 4, 5" in capsys.readouterr().err
