"""Ctrl-C and a sudden death, of real processes: resuming gives the bits of an undisturbed run."""

import json
import os
import signal
import time

import pytest

from ..runs import cli, leftovers, run_jobs_here, start, weights, write_config

ROUNDS = 16
METHODS = ("local", "fedm2ct")
LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def undisturbed(patients, tmp_path_factory, one_thread):
    """The same run, in this process, from beginning to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder / "tiny.toml", patients, methods=METHODS, rounds=ROUNDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
        patch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)
        assert cli("train", config, "--out", folder / "run") == 0
    return folder / "run"


def wait_for_round(process, method, number):
    """Read rows until a method has done a round."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        line = process.stderr.readline()
        assert line, "the run ended before it could be interrupted"
        if line.split()[:3] == [method, "4", f"{number}/{ROUNDS}"]:
            return
    raise AssertionError("the run did not get there in time")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Draw no figures."""
    monkeypatch.setattr("fedm2ct.pipeline.train.write_report", lambda *_: None)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_run_goes_on_after(blow, undisturbed, patients, tmp_path, in_process, one_thread, capsys):
    run = tmp_path / "run"
    config = write_config(tmp_path / "tiny.toml", patients, methods=METHODS, rounds=ROUNDS)
    process = start("train", config, "--out", run, "--workers", 2)
    try:
        wait_for_round(process, "fedm2ct", 2)
        os.killpg(process.pid, blow)
        _, said = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert not (run / "summary.json").exists()
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == (
            "Interrupted; what is done is stored, go on with --resume."
        )
        assert "Traceback" not in said
        assert not leftovers(run)
    else:
        assert process.returncode == -signal.SIGKILL

    assert cli("train", config, "--out", run) == 1  # not by accident
    assert "add --resume" in capsys.readouterr().err
    assert cli("train", config, "--out", run, "--resume") == 0
    assert "fedm2ct, seed 4: goes on after round" in capsys.readouterr().err
    assert weights(run) == weights(undisturbed) != {}
    found, expected = (json.loads((f / "summary.json").read_text()) for f in (run, undisturbed))
    assert found["methods"] == expected["methods"]
    assert not leftovers(run)
