"""A disk that fills up in mid-run: one sentence, nothing half-written, and --resume completes."""

import errno
import json
import os

import pytest

from fedm2ct.files import write_atomically

from ..runs import cli, leftovers, weights, write_config

PLACES = [
    "sites/A/scans.json",
    "manifest.json",
    ".slices/cohort.json",
    "fedm2ct/seed-4/checkpoints/round-0000.safetensors",
    "fedm2ct/seed-4/sites/B/private-0002.safetensors",
    "fedm2ct/seed-4/metrics.jsonl",
    "fedm2ct/seed-4/audit.jsonl",
    "fedm2ct/seed-4/checkpoints/round-0002.safetensors",
    "fedm2ct/seed-4/sites/B/model.safetensors",
    "fedm2ct/seed-4/arrays.npz",
    "fedm2ct/seed-4/result.json",
    "summary.json",
    "report.html",
]


@pytest.fixture
def full_disk(monkeypatch):
    """Refuse to store any file whose path ends in a given way."""
    real = os.fsync

    def fill(place):
        def fsync(handle):
            path = os.readlink(f"/proc/self/fd/{handle}").partition(".writing-")[0]
            if path.endswith(f"/run/{place}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        return lambda: monkeypatch.setattr(os, "fsync", real)

    return fill


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    """Draw no figures."""
    monkeypatch.setattr(
        "fedm2ct.pipeline.train.write_report",
        lambda *arguments: write_atomically(arguments[-1], b"report"),
    )


def scores(run):
    return json.loads((run / "summary.json").read_text())["methods"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to name open files")
@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk(
    finished, patients, tmp_path, capsys, in_process, one_thread, full_disk, place
):
    run = tmp_path / "run"
    config = write_config(tmp_path / "tiny.toml", patients)
    free_some_space = full_disk(place)
    assert cli("train", config, "--out", run) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "the disk is full" in last
    assert "--resume" in last
    assert place.rpartition("/")[2] in last
    assert not leftovers(run)
    assert not (run / "report.html").exists()

    free_some_space()
    assert cli("train", config, "--out", run, "--resume") == 0
    assert weights(run / "fedm2ct") == weights(finished / "fedm2ct") != {}
    assert scores(run) == {method: scores(finished)[method] for method in ("fbp", "fedm2ct")}
    assert (run / "report.html").exists()
    assert not leftovers(run)


@pytest.mark.parametrize("place", ["arrays.npz", "metrics.json"])
def test_a_full_disk_in_evaluate(finished, patients, tmp_path, capsys, full_disk, place):
    out = tmp_path / "run"  # the name that `full_disk` looks for
    arguments = ["--scan", patients / "new.npz", "--out", out, "--slices", 1]
    free_some_space = full_disk(place)
    assert cli("evaluate", finished, *arguments) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert not (out / "metrics.json").exists()
    assert not leftovers(out)
    free_some_space()
    assert cli("evaluate", finished, *arguments) == 0
