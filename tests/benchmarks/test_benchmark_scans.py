"""The published benchmark's folder of scans: order, spacing, and the resampled second slice."""

import json
from pathlib import Path

import benchmark_scans
import numpy as np
import pytest

from fedm2ct.data.scans import read_scan
from fedm2ct.pipeline.settings import SETTINGS

PIXELS = np.array([0.8, 0.8, 1.0, 0.5], np.float32)


@pytest.fixture
def given(tmp_path):
    """Return arguments for two patients (the second's slices have unlike pixels) and a volume."""
    ramp = np.tile(np.arange(16, dtype=np.int16) * 100 - 1000, (16, 1))
    hu = np.stack([ramp, ramp + 1, ramp, ramp])
    names = np.array(["P1|A|chest", "P1|B|chest", "P2|A|chest", "P2|A|chest"])
    np.savez(tmp_path / "slices.npz", hu=hu, pixel_mm=PIXELS, name=names)
    volume = np.stack([ramp, ramp, ramp])
    np.savez(tmp_path / "v.npz", hu=volume, spacing_zyx_mm=np.array([5, 1, 1], np.float32))
    options = ["--slices", tmp_path / "slices.npz", "--volume", f"V={tmp_path / 'v.npz'}"]
    return [str(value) for value in [*options, "--out", tmp_path / "out"]]


def test_names_put_validation_first_then_the_test_then_sites(given, tmp_path, capsys):
    assert benchmark_scans.main(given) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == ["01-P1.npz", "11-P2.npz", "90-V.npz"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{f}: {read_scan(f).patient}" for f in files]
    assert [read_scan(f).spacing_zyx_mm[1] for f in files] == pytest.approx([0.8, 1.0, 1.0])


def test_the_second_slice_is_brought_to_the_first_ones_pixel(given, tmp_path):
    assert benchmark_scans.main(given) == 0
    same = read_scan(tmp_path / "out" / "01-P1.npz").hu
    np.testing.assert_array_equal(same[1], same[0] + 1)
    second = read_scan(tmp_path / "out" / "11-P2.npz").hu[1]
    # twice the pixel: each step of a ramp of 100 HU a pixel is 200 HU, the centre stays, air beyond
    assert np.all(np.diff(second[8, 5:11].astype(int)) == 200)
    assert second[8, 7] + second[8, 8] == 1500 - 2000
    assert second[8, 0] == second[0, 8] == -1024


def test_slices_of_two_patients_are_no_scan(given, tmp_path, capsys):
    names = np.array(["P1|", "P2|", "P2|", "P2|"])
    hu = np.zeros((4, 16, 16), np.int16)
    np.savez(tmp_path / "slices.npz", hu=hu, pixel_mm=PIXELS, name=names)
    assert benchmark_scans.main(given) == 1
    assert "slices 0 and 1 are of two patients" in capsys.readouterr().err


def test_the_published_settings_have_the_same_test_patients():
    results = Path(benchmark_scans.__file__).parent / "results"
    records = [json.loads((results / f"{name}-small.json").read_text()) for name in SETTINGS]
    found = [record["patients"]["test"] for record in records]
    assert all(patients == found[0] for patients in found)
