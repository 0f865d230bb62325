"""One command at a time in a folder, and none kept out by a command that has died."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fedm2ct
from fedm2ct.errors import FedM2CTError
from fedm2ct.pipeline.run_lock import LOCK, alone_in

HOLDING = """
import sys, time
from pathlib import Path
from fedm2ct.pipeline.run_lock import alone_in

with alone_in(Path(sys.argv[1])):
    print("holds it", flush=True)
    time.sleep(60)
"""


def test_a_second_command_is_refused_until_the_first_has_died(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(fedm2ct.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"holds it\n"
        with pytest.raises(FedM2CTError, match=f"another command is working in {tmp_path}/run; w"):
            alone_in(tmp_path / "run").__enter__()
        other.send_signal(signal.SIGKILL)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [LOCK]
    with alone_in(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_the_end_of_another_command_is_awaited_for_a_while(tmp_path):
    other = alone_in(tmp_path)
    other.__enter__()
    leaving = threading.Timer(0.3, other.__exit__, (None, None, None))
    leaving.start()
    with alone_in(tmp_path, patience_s=30.0):
        leaving.join()


def test_nothing_is_left_of_a_folder_that_was_not_used(tmp_path):
    with pytest.raises(ValueError), alone_in(tmp_path / "run"):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError

    monkeypatch.setattr("fcntl.flock", flock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FedM2CTError, match="file/run"):
        alone_in(tmp_path / "file" / "run").__enter__()
