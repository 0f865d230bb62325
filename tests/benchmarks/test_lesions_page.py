"""A benchmark's planted lesions, condensed and shown: every number comes from the two files."""

import json

import lesions
import pytest


def spread(mean, sd=10.0):
    return {"mean": mean, "sd": sd, "n": 2}


def site(recovered, direct):
    kind = {"recovered": spread(recovered + 1), "direct": spread(direct)}
    return {
        "recovered": spread(recovered),
        "direct": direct if isinstance(direct, dict) else spread(direct),
        "by_kind": {"6 mm, +40 HU": kind},
        "percent": {"recovered": [1.0, 2.0]},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lesions, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(lesions, "DOCS", tmp_path / "docs")
    for name in ("results", "docs", "bench/run"):
        (tmp_path / name).mkdir(parents=True)
    mean = {"psnr_db": {"mean": 34.125}, "residual_to_truth": {"mean": 1.25}}
    benchmark = {
        "setting": "all-in-one",
        "size": "tiny",
        "n_patients": 3,
        "methods": {"tv": {"mean": mean}, "fedavg": {"mean": mean}},
    }
    planted = {
        "seed": 0,
        "versions": {"torch": "2"},
        "diameters_mm": [6.0],
        "contrasts_hu": [40.0],
        "sites": {"A": {"lesions": [{}, {}]}, "B": {"lesions": [{}]}},
        "methods": {"tv": {"sites": {"A": site(20.0, 4.0), "B": site(40.0, 8.0)}}},
    }
    (tmp_path / "bench" / "results.json").write_text(json.dumps(benchmark), encoding="utf-8")
    (tmp_path / "bench" / "run" / "lesions.json").write_text(json.dumps(planted), encoding="utf-8")
    return tmp_path


def called(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["lesions.py", *map(str, arguments)])
    lesions.main()


def test_the_page_holds_means_over_sites(folder, monkeypatch):
    called(monkeypatch, folder / "bench")
    written = folder / "docs" / "lesions-all-in-one-tiny.md"
    text = written.read_text(encoding="utf-8")
    assert "| TV | 34.12 | 1.25 | 30 | 20 | 40 | 0.60 |" in text
    assert "| TV | 31 |" in text  # the kind's mean over sites
    assert "discs of 6 mm, +40 HU, 1 to 2 a site in test slices of 3 patients" in text
    assert "FedAvg" not in text
    written.unlink()
    called(monkeypatch, "--page-only", "all-in-one-tiny")
    assert written.read_text(encoding="utf-8") == text
    record = json.loads((folder / "results" / "lesions-all-in-one-tiny.json").read_text("utf-8"))
    assert "percent" not in record["methods"]["tv"]["sites"]["A"]


def test_what_is_missing_is_named(folder, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        called(monkeypatch, folder)
    assert "results.json" in capsys.readouterr().err
    path = folder / "bench" / "results.json"
    benchmark = json.loads(path.read_text(encoding="utf-8"))
    del benchmark["methods"]["tv"]
    path.write_text(json.dumps(benchmark), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"results.json has no tv"):
        called(monkeypatch, folder / "bench")
