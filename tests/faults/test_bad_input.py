"""``train`` on bad input: one clear sentence, an exit code that is not 0, nothing written."""

import json

import pytest

from fedm2ct.data.scans import read_scan

from ..bad_scans import BAD_SCANS
from ..data.scan_files import write_dicom
from ..runs import cli, write_config


@pytest.fixture
def refused(tmp_path, patients, capsys):
    """Train with a changed configuration; check that it is refused in one sentence; return it."""

    def train(change, **options):
        config = write_config(tmp_path / "my.toml", patients, change=change, **options)
        assert cli("train", config, "--out", tmp_path / "run") == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("Error: ")
        assert captured.err.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return captured.err

    return train


@pytest.mark.parametrize(("make", "said"), BAD_SCANS, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("role", ["bob", "dan", "evelyn"])
def test_a_bad_scan(refused, patients, tmp_path, make, said, role):
    bad = make(tmp_path).as_posix()
    assert said in refused(lambda text: text.replace(f"{patients}/{role}.npz", bad))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('"demo-sparse"', '"demo-sprase"', ["my.toml", "site 'A'", "'protocol'", "demo-sparse"]),
        ("local_steps", "local_stesp", ["my.toml", "'training.local_stesp'", "'local_steps'"]),
        ('"fedm2ct"]', '"fedm2ctt"]', ["my.toml", "'methods'", "'fedm2ctt'", "'fedm2ct'"]),
        ("width = 2", 'shared = "unett"', ["my.toml", "'model.shared'", "'unet'"]),
        ('name = "B"', 'name = "A"', ["my.toml", "site names must differ"]),
        ("evelyn.npz", "ann.npz", ["'A'", "'meta'", "ann.npz", "one role"]),
        ("dan.npz", "bob.npz", ["'B'", "'test'", "bob.npz", "one role"]),
        ("cat.npz", "bob.npz", ["scans of 'B'", "bob.npz is the same scan as", "name it once"]),
        ("[test]", "[test", ["my.toml", "not valid TOML"]),
        ('"demo-sparse"', '{beam = "fan"}', ["my.toml", "site 'A'", "'protocol'"]),
    ],
)
def test_a_bad_configuration(refused, old, new, parts):
    said = refused(lambda text: text.replace(old, new, 1))
    for part in parts:
        assert part in said


def test_a_copy_of_a_scan_is_the_same_patient(refused, patients, tmp_path):
    write_dicom(tmp_path / "somebody-else", read_scan(patients / "ann.npz").hu)
    copy = (tmp_path / "somebody-else").as_posix()
    said = refused(lambda text: text.replace(f"{patients}/dan.npz", copy))
    assert "somebody-else of 'test' is a copy of" in said
    assert "'A'" in said


def test_a_copy_of_a_scan_at_the_same_site_is_refused(refused, patients, tmp_path):
    write_dicom(tmp_path / "again", read_scan(patients / "bob.npz").hu)
    again = (tmp_path / "again").as_posix()
    said = refused(lambda text: text.replace(f"{patients}/cat.npz", again))
    assert "scans of 'B'" in said and "again is the same scan as" in said


def test_a_configuration_that_does_not_exist(tmp_path, capsys):
    assert cli("train", tmp_path / "none.toml", "--out", tmp_path / "run") == 1
    assert "none.toml: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_in_it(tmp_path, patients, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    config = write_config(tmp_path / "my.toml", patients)
    assert cli("train", config, "--out", tmp_path / "run") == 1
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "holds a run; add --resume"), (["--resume"], "holds a run of another configuration")],
)
def test_a_folder_with_another_run_in_it(finished, tmp_path, patients, capsys, options, said):
    before = (finished / "manifest.json").read_bytes()
    config = write_config(tmp_path / "my.toml", patients, rounds=7)
    assert cli("train", config, "--out", finished, *options) == 1
    assert said in capsys.readouterr().err
    assert (finished / "manifest.json").read_bytes() == before


def test_a_file_where_the_folder_should_be(tmp_path, patients, capsys):
    (tmp_path / "run").write_text("a file")
    config = write_config(tmp_path / "my.toml", patients)
    assert cli("train", config, "--out", tmp_path / "run") == 2
    assert "is a file" in capsys.readouterr().err


def test_a_damaged_manifest(tmp_path, patients, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"name": "ti')
    config = write_config(tmp_path / "my.toml", patients)
    assert cli("train", config, "--out", tmp_path / "run", "--resume") == 1
    assert "manifest.json: is damaged" in capsys.readouterr().err


def test_a_warning_is_told_once_for_all_processes(tmp_path, patients, capsys, in_process):
    assert cli("protocols", "--json", "demo-sparse") == 0
    short = {**json.loads(capsys.readouterr().out), "bins": 120}
    table = ", ".join(f"{k} = {json.dumps(v)}" for k, v in short.items() if v is not None)
    config = write_config(
        tmp_path / "my.toml",
        patients,
        methods=("fbp",),
        change=lambda text: text.replace('"demo-sparse"', f"{{{table}}}"),
    )
    assert cli("train", config, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert said.count("the detector misses the outer") == 1
    assert said.startswith("Warning: ")
    assert ".py:" not in said
