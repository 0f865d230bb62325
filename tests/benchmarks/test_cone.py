"""The cone beam's benchmark, on numbers so small that it takes a moment."""

import json
import warnings
from dataclasses import replace

import cone
import pytest
import torch

from fedm2ct.physics.geometry import equispaced_angles

SMALL = replace(cone.GEOMETRY, angles_rad=equispaced_angles(20), n_columns=60, column_pitch_mm=7.0)
COARSE = replace(cone.GRID, slices=32, rows=32, columns=32, pixel_mm=5.6, slice_mm=2.4)


@pytest.fixture
def without_rtk(monkeypatch):
    monkeypatch.setattr(cone, "_rtk", lambda *_: None)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_measures_times_and_errors(without_rtk):
    measured = cone.measure(SMALL, COARSE, repeats=2, threads=1)
    assert set(measured) == {"project", "adjoint", "fdk"}
    for row in measured.values():
        assert 0 < row["ours_s"]["min"] <= row["ours_s"]["median"]
        assert "rtk_s" not in row and "rtk_over_ours" not in row
    assert 0 < measured["project"]["error"]["ours"] < 0.1
    assert 0 < measured["fdk"]["error"]["ours"] < 100


def test_ratios_are_taken_pair_by_pair():
    compared = cone._compared({"ours": [1.0, 2.0, 4.0], "rtk": [3.0, 4.0, 4.0]})
    assert compared["rtk_over_ours"] == {"of_min": 3.0, "median_of_pairs": 2.0}
    assert compared["rtk_s"] == {"min": 3.0, "median": 4.0}


def test_writes_what_it_measured(without_rtk, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cone, "RESULT", tmp_path / "cone.json")
    monkeypatch.setattr(cone, "GEOMETRY", SMALL)
    monkeypatch.setattr(cone, "GRID", COARSE)
    monkeypatch.setattr("sys.argv", ["cone.py", "--repeats", "1"])
    cone.main()
    result = json.loads((tmp_path / "cone.json").read_text())
    assert result["projections"] == [20, 64, 60] and result["threads"] == 1
    assert {"torch", "numba", "python"} <= set(result["versions"])
    assert result["operators"] == json.loads(capsys.readouterr().out)


def test_rtk_is_measured_beside_ours_where_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as errors they crash ITK's bindings
        itk = pytest.importorskip("itk")
        if not hasattr(itk, "RTK"):
            pytest.skip("itk is here without RTK")
        measured = cone.measure(SMALL, COARSE, repeats=1, threads=1)
    for name in ("project", "fdk"):
        error = measured[name]["error"]
        assert error["rtk"] == pytest.approx(error["ours"], rel=0.1)
    assert measured["adjoint"]["rtk_over_ours"]["of_min"] > 0
