"""``evaluate``: a run's methods on scans that it has never seen."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from fedm2ct.data.scans import read_scan

from ..bad_scans import BAD_SCANS
from ..data.scan_files import image, write_dicom
from ..runs import cli

METHODS, SITES = {"fbp", "local", "fedm2ct"}, {"A", "B"}
SPACING = (2.5, 12.5, 12.5)


@pytest.fixture(scope="module")
def new_patient(patients):
    """HU of a patient that no run knows, whole numbers."""
    return read_scan(patients / "new.npz").hu.round().astype(np.int16)


def as_npz(folder, hu):
    np.savez(folder / "new.npz", hu=hu, spacing_zyx_mm=SPACING)
    return folder / "new.npz"


def as_nifti(folder, hu):
    sitk.WriteImage(image(hu, SPACING), str(folder / "new.nii.gz"))
    return folder / "new.nii.gz"


def as_dicom(folder, hu):
    write_dicom(folder / "dicom", hu, PixelSpacing=list(SPACING[1:]))
    return folder / "dicom"


@pytest.fixture(scope="module")
def from_npz(finished, new_patient, tmp_path_factory):
    folder = tmp_path_factory.mktemp("from-npz")
    scan = as_npz(folder, new_patient)
    assert cli("evaluate", finished, "--scan", scan, "--out", folder / "out") == 0
    return folder / "out"


def numbers(out):
    return json.loads((out / "metrics.json").read_text())


def images(out):
    with np.load(out / "arrays.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_metrics_follow_the_design(from_npz):
    found = numbers(from_npz)
    assert set(found) >= {"methods", "reference", "seed", "config", "versions"}
    assert set(found["methods"]) == METHODS
    for scores in found["methods"].values():
        assert set(scores["sites"]) == SITES
        for entry in (*scores["sites"].values(), scores["mean"]):
            assert set(entry) >= {"psnr_db", "ssim", "rmse_hu", "n_slices"}
            assert np.isfinite([entry["psnr_db"], entry["ssim"], entry["rmse_hu"]]).all()
        assert scores["sites"]["A"]["n_slices"] == 7
        mean = np.mean([s["psnr_db"] for s in scores["sites"].values()])
        assert scores["mean"]["psnr_db"] == pytest.approx(mean)
    assert found["reference"]["data_range_hu"] == [-1024, 3071]
    assert found["seed"] == 4
    assert found["config"]["name"] == "tiny"
    assert found["scans"][0]["slices"] == list(range(7))


def test_arrays_follow_the_design(from_npz):
    found = images(from_npz)
    expected = {f"{name}/{site}" for name in (*METHODS, "truth_hu") for site in SITES}
    assert set(found) == {*expected, "truth_hu"}
    np.testing.assert_array_equal(found["truth_hu"], found["truth_hu/A"])
    for array in found.values():
        assert array.shape == (7, 16, 16)
        assert array.dtype == np.float32
    truth = found["truth_hu/A"]
    assert truth.min() < -950
    assert truth.max() > 0
    # a score is that of the arrays
    mse = ((found["local/A"].clip(-1024, 3071) - truth) ** 2).mean(axis=(1, 2))
    psnr = (20 * np.log10(4095) - 10 * np.log10(mse)).mean()
    assert numbers(from_npz)["methods"]["local"]["sites"]["A"]["psnr_db"] == pytest.approx(psnr)


@pytest.mark.parametrize("write", [as_nifti, as_dicom])
def test_every_format_gives_the_same(finished, from_npz, new_patient, tmp_path, write):
    scan = write(tmp_path, new_patient)
    assert cli("evaluate", finished, "--scan", scan, "--out", tmp_path / "out") == 0
    expected, found = images(from_npz), images(tmp_path / "out")
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_one_site_and_few_slices(finished, patients, tmp_path, capsys):
    scan, out = patients / "new.npz", tmp_path / "out"
    arguments = ["--site", "B", "--slices", 2, "--out", out]
    assert cli("evaluate", finished, "--scan", scan, *arguments) == 0
    found = images(out)
    assert set(found) == {"truth_hu", "truth_hu/B", *(f"{m}/B" for m in METHODS)}
    np.testing.assert_array_equal(found["truth_hu"], found["truth_hu/B"])
    assert len(found["fbp/B"]) == 2
    assert "metrics.json" in capsys.readouterr().out


def test_several_scans_are_scored_by_patient(finished, patients, tmp_path):
    scans = ["--scan", patients / "new.npz", "--scan", patients / "dan.npz"]
    assert cli("evaluate", finished, *scans, "--slices", 2, "--out", tmp_path) == 0
    site = numbers(tmp_path)["methods"]["fbp"]["sites"]["A"]
    assert site["n_slices"] == 4
    assert len(site["patients"]) == 2


@pytest.mark.parametrize(("name", "role"), [("bob", "'B'"), ("evelyn", "'meta'")])
def test_a_patient_of_the_training_is_refused(finished, patients, tmp_path, capsys, name, role):
    out = tmp_path / "out"
    renamed = tmp_path / "other-name.npz"
    shutil.copy(patients / f"{name}.npz", renamed)
    assert cli("evaluate", finished, "--scan", renamed, "--out", out) == 1
    said = capsys.readouterr().err
    assert role in said
    assert "--allow-seen" in said
    assert not out.exists()
    allowed = ["--allow-seen", "--slices", 1, "--site", "A"]
    assert cli("evaluate", finished, "--scan", renamed, "--out", out, *allowed) == 0


def test_a_copy_in_another_format_is_refused(finished, patients, tmp_path, capsys):
    copy = as_dicom(tmp_path, read_scan(patients / "bob.npz").hu)  # another patient, it claims
    assert cli("evaluate", finished, "--scan", copy, "--out", tmp_path / "out") == 1
    assert "used for 'B'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--site", "Z"], "no site 'Z'; it has A, B"),
        (["--seed", 9], "no seed 9; it has 4"),
    ],
)
def test_what_the_run_does_not_have(finished, patients, tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    scan = patients / "new.npz"
    assert cli("evaluate", finished, "--scan", scan, "--out", out, *arguments) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_run_that_is_not_finished(finished, patients, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "local" / "seed-4" / "result.json").unlink()
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path / "out"]
    assert cli("evaluate", run, *arguments) == 1
    said = capsys.readouterr().err
    assert "local with seed 4 is not finished; go on with --resume" in said
    assert not (tmp_path / "out").exists()


def test_a_damaged_model(finished, patients, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    model = run / "local" / "seed-4" / "sites" / "B" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path / "out"]
    assert cli("evaluate", run, *arguments) == 1
    said = capsys.readouterr().err
    assert str(model) in said
    assert "is damaged" in said
    assert said.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run(patients, tmp_path, capsys):
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path / "out"]
    assert cli("evaluate", tmp_path, *arguments) == 1
    assert "is no run" in capsys.readouterr().err


def test_the_run_itself_is_no_place_for_the_result(finished, patients, capsys):
    assert cli("evaluate", finished, "--scan", patients / "new.npz", "--out", finished) == 1
    assert "holds a run; choose another" in capsys.readouterr().err
    assert not (finished / "arrays.npz").exists()


@pytest.mark.parametrize(("make", "said"), BAD_SCANS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_bad_scan(finished, tmp_path, capsys, make, said):
    out = tmp_path / "out"
    assert cli("evaluate", finished, "--scan", make(tmp_path), "--out", out) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not out.exists()
