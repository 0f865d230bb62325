"""``simulate`` and ``reconstruct``: projections out of a scan, an image out of projections."""

from dataclasses import replace

import numpy as np
import pytest

from fedm2ct.data.projections import read_projections, read_truth, write_projections
from fedm2ct.data.scans import read_scan
from fedm2ct.physics.protocols import PROTOCOLS, get_protocol
from fedm2ct.pipeline.prepare import acquire_tests

from ..bad_scans import BAD_SCANS
from ..runs import cli, leftovers


@pytest.fixture
def projections(patients, tmp_path):
    """What site B would measure of the new patient: 3 of its 7 slices, 5 mm apart."""
    path = tmp_path / "b.h5"
    arguments = ["--scan", patients / "new.npz", "--out", path, "--size", 16, "--slices", 3]
    assert cli("simulate", "--protocol", "demo-parallel", *arguments) == 0
    return path


def test_simulate_writes_projections_with_their_protocol(capsys, projections):
    found, protocol = read_projections(projections)
    assert protocol == get_protocol("demo-parallel").scaled(16)
    assert found.shape == (3, 1, *protocol.geometry.shape)
    truth = read_truth(projections)
    assert truth.shape == (3, 1, 16, 16)
    assert "3 slices, 180 views" in capsys.readouterr().out


def test_the_noise_is_the_seed_s(projections, patients, tmp_path):
    common = ["--scan", patients / "new.npz", "--size", 16, "--slices", 3]
    for seed in (0, 1):
        out = tmp_path / f"{seed}.h5"
        arguments = ["--protocol", "demo-parallel", "--seed", seed, "--out", out]
        assert cli("simulate", *common, *arguments) == 0
    first, again, other = (
        read_projections(p)[0] for p in (projections, tmp_path / "0.h5", tmp_path / "1.h5")
    )
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".npz"])
def test_reconstruct_writes_an_image_with_its_spacing(finished, projections, tmp_path, ending):
    out = tmp_path / "new" / f"image{ending}"
    arguments = ["--site", "B", "--projections", projections, "--out", out]
    assert cli("reconstruct", finished, *arguments, "--method", "fbp") == 0
    scan = read_scan(out)
    assert scan.hu.shape == (3, 16, 16)
    # slices 1, 3 and 5 of those 5 mm apart; 460 mm on 16 pixels
    assert scan.spacing_zyx_mm == pytest.approx((10.0, 28.75, 28.75))
    truth = read_truth(projections)[:, 0].numpy()
    upside_down = np.abs(scan.hu - truth[:, ::-1]).mean()
    mirrored = np.abs(scan.hu - truth[:, :, ::-1]).mean()
    assert np.abs(scan.hu - truth).mean() < 0.7 * min(upside_down, mirrored)


@pytest.mark.parametrize("method", ["fbp", "local", "fedm2ct"])
def test_reconstruct_gives_what_evaluate_gives(finished, patients, tmp_path, method):
    scan, protocol = read_scan(patients / "new.npz"), get_protocol("demo-sparse").scaled(16)
    data, _ = acquire_tests([(scan, range(7))], protocol, "A", 4)
    write_projections(tmp_path / "a.h5", data.projections, protocol)
    arguments = ["--projections", tmp_path / "a.h5", "--out", tmp_path / "a.npz"]
    assert cli("reconstruct", finished, "--site", "A", "--method", method, *arguments) == 0
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path, "--site", "A"]
    assert cli("evaluate", finished, *arguments) == 0
    with np.load(tmp_path / "a.npz") as image, np.load(tmp_path / "arrays.npz") as arrays:
        np.testing.assert_array_equal(image["hu"], arrays[f"{method}/A"])


def test_reconstruct_warns_of_another_dose(finished, projections, tmp_path, capsys):
    found, protocol = read_projections(projections)
    write_projections(tmp_path / "low.h5", found, replace(protocol, photons=1000.0))
    capsys.readouterr()
    for name, warned in (("b.h5", 0), ("low.h5", 1)):
        arguments = ["--projections", tmp_path / name, "--out", tmp_path / "image.npz"]
        assert cli("reconstruct", finished, "--site", "B", "--method", "fbp", *arguments) == 0
        said = capsys.readouterr().err
        assert said.count("Warning: ") == warned
    assert "low.h5: was measured with 1000 photons a ray" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--site": "A"}, "another geometry than that of site A"),
        ({"--site": "Z"}, "has no site 'Z'; it has A, B"),
        ({"--method": "fedavg"}, "has no method 'fedavg'; it has fbp, local, fedm2ct"),
        ({"--seed": "9"}, "no seed 9; it has 4"),
        ({"--out": "image.png"}, "unknown ending; write .nii.gz"),
        ({"--projections": "nowhere.h5"}, "no such file"),
    ],
)
def test_reconstruct_refuses(finished, projections, tmp_path, capsys, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    options = {"--site": "B", "--projections": projections, "--out": "image.nii", **changes}
    arguments = [a for pair in options.items() for a in pair]
    assert cli("reconstruct", finished, *arguments) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("image*"))


def test_a_file_that_holds_no_projections(finished, tmp_path, capsys):
    (tmp_path / "a.h5").write_bytes(b"not HDF5")
    arguments = ["--projections", tmp_path / "a.h5", "--out", tmp_path / "a.nii"]
    assert cli("reconstruct", finished, "--site", "A", *arguments) == 1
    assert "not HDF5" in capsys.readouterr().err


@pytest.mark.parametrize(("make", "said"), BAD_SCANS, ids=lambda x: getattr(x, "__name__", ""))
def test_simulate_refuses_a_bad_scan(tmp_path, capsys, make, said):
    arguments = ["--protocol", "demo-sparse", "--out", tmp_path / "new" / "a.h5"]
    assert cli("simulate", "--scan", make(tmp_path), *arguments) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_simulate_refuses_a_protocol_with_a_typo(patients, tmp_path, capsys):
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path / "a.h5"]
    assert cli("simulate", "--protocol", "demo-sprase", *arguments) == 1
    assert "did you mean demo-sparse" in capsys.readouterr().err
    assert not leftovers(tmp_path)


def test_a_detector_that_is_too_short_is_told_once(patients, tmp_path, capsys, monkeypatch):
    whole = get_protocol("demo-sparse")
    short = replace(whole, geometry=replace(whole.geometry, n_bins=120))
    monkeypatch.setitem(PROTOCOLS, "short", short)
    arguments = ["--scan", patients / "new.npz", "--out", tmp_path / "a.h5", "--slices", 1]
    assert cli("simulate", "--protocol", "short", *arguments) == 0
    said = capsys.readouterr().err
    assert said.count("Warning: ") == 1
    assert "the detector misses the outer" in said
