"""A benchmark's planted lesions, condensed and shown: every number comes from the files."""

import copy
import json

import lesions
import pytest


def spread(mean, sd=10.0):
    return {"mean": mean, "sd": sd, "n": 2}


def site(recovered, direct):
    kind = {"recovered": spread(recovered + 1), "direct": spread(direct)}
    return {
        "recovered": spread(recovered),
        "direct": spread(direct),
        "by_kind": {"6 mm, +40 HU": kind},
        "percent": {"recovered": [1.0, 2.0]},
    }


PLANTED = {
    "seed": 0,
    "versions": {"torch": "2"},
    "diameters_mm": [6.0],
    "contrasts_hu": [40.0],
    "sites": {"A": {"lesions": [{}, {}]}, "B": {"lesions": [{}]}},
    "methods": {"tv": {"sites": {"A": site(20.0, 4.0), "B": site(40.0, 8.0)}}},
}
SECOND = {
    **PLANTED,
    "seed": 1,
    "methods": {"tv": {"sites": {"A": site(24.0, 6.0), "B": site(50.0, 12.0)}}},
}


class Folder:
    """A benchmark's folder, and what is published of it."""

    def __init__(self, path):
        self.path, self.run = path, path / "bench" / "run"
        for name in ("results", "docs", "bench/run"):
            (path / name).mkdir(parents=True)
        (path / "bench" / "results.json").write_text(
            json.dumps({"setting": "all-in-one", "size": "tiny"})
        )
        self.publish("tv", "fedavg")

    def publish(self, *methods):
        mean = {"psnr_db": {"mean": 34.125}, "residual_to_truth": {"mean": 1.25}}
        record = {"n_patients": 3, "methods": {name: {"mean": mean} for name in methods}}
        (self.path / "results" / "all-in-one-tiny.json").write_text(json.dumps(record))

    def put(self, planted, cpu="a processor"):
        (self.run / "lesions.json").write_text(json.dumps(planted))
        for name in planted["methods"]:
            unit = self.run / name / f"seed-{planted['seed']}"
            unit.mkdir(parents=True, exist_ok=True)
            machine = {"cpu": cpu, "cores": 2, "gpu": None}
            made = {"date": "2026-11-27", "git_commit": "1", "machine": machine}
            (unit / "result.json").write_text(json.dumps({"from": made, "scores": {}}))

    @property
    def page(self):
        return (self.path / "docs" / "lesions-all-in-one-tiny.md").read_text(encoding="utf-8")

    @property
    def record(self):
        return json.loads((self.path / "results" / "lesions-all-in-one-tiny.json").read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lesions, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(lesions, "DOCS", tmp_path / "docs")
    made = Folder(tmp_path)
    made.put(PLANTED)
    return made


@pytest.fixture
def called(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["lesions.py", *map(str, arguments)])
        lesions.main()

    return call


def test_the_page_holds_means_over_sites(folder, called):
    called(folder.path / "bench")
    text = folder.page
    assert "| TV | 34.12 | 1.25 | 30.0 | 30.0 to 30.0 | 20 | 40 | 0.60 |" in text
    assert "| TV | 31 |" in text  # the kind's mean over sites
    assert "discs of 6 mm, +40 HU, 1 to 2 a site in test slices of 3 patients" in text
    assert "FedAvg" not in text
    (folder.path / "docs" / "lesions-all-in-one-tiny.md").unlink()
    called("--page-only", "all-in-one-tiny")
    assert folder.page == text
    assert "percent" not in json.dumps(folder.record)


def test_a_second_seed_is_added_and_the_page_holds_means_over_both(folder, called):
    called(folder.path / "bench")
    folder.put(SECOND, cpu="another")
    called(folder.path / "bench")
    assert "| TV | 34.12 | 1.25 | 33.5 | 30.0 to 37.0 | 22 | 45 | 0.75 |" in folder.page
    assert "| TV | 34 |" in folder.page  # 34.5, to the even one
    assert "- Seed 0: models of 2026-11-27, a processor; torch 2." in folder.page
    assert "- Seed 1: models of 2026-11-27, another; torch 2." in folder.page
    before = folder.record
    called(folder.path / "bench")  # again: it replaces its own seed alone
    assert folder.record == before


@pytest.mark.parametrize("changed", ["diameters_mm", "n_lesions", "methods"])
def test_a_seed_of_other_lesions_is_refused_and_nothing_is_written(folder, called, changed):
    called(folder.path / "bench")
    before = folder.record
    other = copy.deepcopy(SECOND)
    if changed == "n_lesions":
        other["sites"]["A"]["lesions"].pop()
    elif changed == "methods":
        other["methods"]["fedavg"] = other["methods"]["tv"]
    else:
        other[changed] = [8.0]
    folder.put(other)
    with pytest.raises(SystemExit, match=rf"seed 1 and the record's seed 0 differ in {changed}"):
        called(folder.path / "bench")
    assert folder.record == before


def test_models_that_were_trained_anew_are_refused_and_nothing_is_written(folder, called):
    planted = copy.deepcopy(PLANTED)
    planted["methods"]["tv"]["unit"] = {"trained": "of-another", "from": None}
    folder.put(planted)
    with pytest.raises(SystemExit, match=r"lesions.json: is of other models than the run's of tv"):
        called(folder.path / "bench")
    assert not (folder.path / "results" / "lesions-all-in-one-tiny.json").exists()


def test_what_is_missing_is_named(folder, called, capsys):
    with pytest.raises(SystemExit):
        called(folder.path)
    assert "results.json" in capsys.readouterr().err
    folder.publish("fedavg")
    with pytest.raises(SystemExit, match=r"all-in-one-tiny.json has no tv"):
        called(folder.path / "bench")
    (folder.path / "results" / "all-in-one-tiny.json").unlink()
    with pytest.raises(SystemExit, match=r"there is no .*all-in-one-tiny.json: publish"):
        called(folder.path / "bench")
    assert not (folder.path / "results" / "lesions-all-in-one-tiny.json").exists()
