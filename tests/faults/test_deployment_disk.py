"""A deployment's disks fill up in mid-run: small disks that really are full, real processes.

About two minutes each; they need the right to mount. Run by ``make faults``, as root or under
``unshare --user --map-root-user --mount``.
"""

import contextlib
import errno
import subprocess

import pytest

from fedm2ct.federation.audit_check import check_unit
from fedm2ct.federation.storage import load_tensors

from ..deployment.loopback import made, pids, up
from ..runs import leftovers
from .deployed import running

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]
ROUNDS = 8


@contextlib.contextmanager
def small_disk(folder, size="32m"):
    """Mount a small disk on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            try:
                yield folder
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True)
            return
    pytest.skip("may not mount: run as root or under unshare --user --map-root-user --mount")


@contextlib.contextmanager
def full(disk):
    """Leave not a byte on a disk for a while."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError) as refused:
        while True:
            stream.write(bytes(4096))
    assert refused.value.errno == errno.ENOSPC
    try:
        yield
    finally:
        filler.unlink()


def assert_nothing_is_half_written(folder):
    assert not leftovers(folder)
    stored = list(folder.rglob("*-[0-9]*.safetensors"))
    assert stored
    for path in stored:
        load_tensors(path)


def assert_left_out_while_full(run, back):
    """The site was left out of these rounds for its disk, and of no other."""
    assert run.failures() == {(number, "A"): "StorageError" for number in range(2, back)}
    assert run.rounds_of("A") == {1, *range(back, ROUNDS + 1)}
    assert run.rounds_of("B") == set(range(1, ROUNDS + 1))
    assert (run.own_folder("A") / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["site-A/runs", "site-A"])
def test_a_site_whose_disk_is_full(patients, tmp_path, place):
    """With its runs on a disk of their own, and where there is no room for its logs either."""
    with small_disk(tmp_path / place) as disk:
        federation = made(tmp_path, patients)
        site = federation.site("A")
        with (
            up(federation) as processes,
            running(federation, processes, tmp_path / "run", rounds=ROUNDS) as run,
        ):
            run.wait_for_round(1)
            before = pids(site)
            with full(disk):
                run.wait_for_round(3)
                assert_nothing_is_half_written(site.runs)
            back = run.wait_for_return("A", after=2)
            run.end()
            assert pids(site) == before
            assert_left_out_while_full(run, back)
            if disk == site.runs:
                assert_each_failure_is_told(run, site)


def assert_each_failure_is_told(run, site):
    lines = (site.logs / "worker.log").read_text().splitlines()
    told = [line for line in lines if "StorageError" in line]
    assert len(told) == len(run.failures())
    for line in told:
        assert f"cannot write {run.own_folder('A')}/private-" in line
        assert "the disk is full; free some space and go on" in line


@pytest.mark.parametrize("place", ["run", "coordinator"])
def test_a_coordinator_whose_disk_is_full(patients, tmp_path, place):
    """With the run on a disk of its own, and where Flower's database is on it too."""
    with small_disk(tmp_path / place) as disk:
        federation = made(tmp_path, patients)
        out = disk if place == "run" else disk / "run"
        with (
            up(federation) as processes,
            running(federation, processes, out, rounds=ROUNDS) as run,
        ):
            run.wait_for_round(1)
            with full(disk):
                said = run.end_with_an_error()
                assert_nothing_is_half_written(out)
            if place == "run":
                assert f"cannot write {run.unit}/" in said
            assert "disk is full" in said
            run.start("--resume")
            run.end()
            for name in ("A", "B", "server"):
                assert run.rounds_of(name) == set(range(1, ROUNDS + 1))
            assert not run.failures()
            assert not check_unit(run.unit).faults
