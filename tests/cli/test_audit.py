import json
import shutil

import pytest

from ..runs import cli


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_is_whole(finished, capsys):
    assert cli("audit", "verify", finished) == 0
    said = capsys.readouterr().out
    for method in ("local", "fedm2ct"):
        assert f"{method}/seed-4: 5 lines, 3 rounds, whole" in said
    heads = json.loads((finished / "summary.json").read_text())["audit"]
    assert set(heads) == {"local/seed-4", "fedm2ct/seed-4"}
    assert all(f"head {head}" in said for head in heads.values())
    assert (
        cli("audit", "verify", finished, *[a for h in heads.values() for a in ("--head", h)]) == 0
    )
    assert cli("audit", "verify", finished / "local" / "seed-4") == 0


def test_a_changed_log_is_named(run, capsys):
    path = run / "fedm2ct" / "seed-4" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"accepted", b"refused!", 1))
    assert cli("audit", "verify", run) == 1
    said = capsys.readouterr()
    assert "fedm2ct/seed-4: 0 lines, 0 rounds, NOT as it was written" in said.out
    assert "local/seed-4: 5 lines, 3 rounds, whole" in said.out
    assert "seed-4/audit.jsonl, line 2: is not as it was written" in said.err
    assert said.err.splitlines()[-1].startswith(f"Error: {run}: 1 fault(s) found")


def test_a_changed_checkpoint_is_named(run, capsys):
    path = run / "local" / "seed-4" / "checkpoints" / "round-0003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert cli("audit", "verify", run) == 1
    assert "round-0003.safetensors: is not the file that" in capsys.readouterr().err


def test_a_head_that_is_gone_is_named(run, capsys):
    head = json.loads((run / "summary.json").read_text())["audit"]["local/seed-4"]
    path = run / "local" / "seed-4" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert cli("audit", "verify", run) == 0
    assert cli("audit", "verify", run, "--head", head) == 1
    assert f"{head}: no log holds this hash any more" in capsys.readouterr().err


def test_a_folder_without_a_log(tmp_path, capsys):
    assert cli("audit", "verify", tmp_path) == 1
    assert "holds no audit log" in capsys.readouterr().err
