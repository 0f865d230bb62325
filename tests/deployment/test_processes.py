"""Services are kept running, and nothing outlives its supervisor."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fedm2ct.deployment import processes
from fedm2ct.deployment.processes import Service, Supervisor, is_alive, read_status

from .loopback import wait_until

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
FAIL = [sys.executable, "-c", "raise SystemExit(7)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """Run a supervisor in a thread; stop it at the end."""
    monkeypatch.setattr(processes, "_end_with_the_parent", lambda: None)  # a thread is the parent
    stop, threads = threading.Event(), []

    def run(*services):
        told = []
        supervisor = Supervisor(services, tmp_path, tmp_path / "status.json", told.append)
        thread = threading.Thread(target=supervisor.run, args=(stop,))
        thread.start()
        threads.append(thread)
        return told

    yield run
    stop.set()
    for thread in threads:
        thread.join()


def pid_of(folder, name):
    status = read_status(folder / "status.json")
    return None if status is None else status["services"][name]["pid"]


def test_a_killed_service_is_started_again_and_ended_at_the_end(tmp_path, monkeypatch, supervised):
    monkeypatch.setattr(processes, "_PAUSES_S", (0.1,))
    told = supervised(Service("a", SLEEP))
    wait_until(lambda: pid_of(tmp_path, "a"), 10, "not started")
    first = pid_of(tmp_path, "a")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pid_of(tmp_path, "a") not in (None, first), 10, "not started again")
    assert any("exit code -9" in text for text in told)
    assert read_status(tmp_path / "status.json")["services"]["a"]["starts"] == 2


def test_pauses_grow(tmp_path, monkeypatch):
    starts = []
    monkeypatch.setattr(processes, "_PAUSES_S", (0.0, 0.4, 1000.0))
    kept = processes._Kept(Service("a", FAIL), tmp_path / "a.log")
    for _ in range(3):
        kept.start(time.monotonic())
        starts.append(time.monotonic())
        wait_until(lambda: kept.ended(time.monotonic()) is not None, 10, "has not ended")
        pause = kept.not_before - time.monotonic()
        assert pause <= (0.0, 0.4, 1000.0)[len(starts) - 1]
    assert pause > 900


def test_all_services_are_ended_even_stubborn_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)
    stop = threading.Event()
    services = [Service("a", SLEEP), Service("b", STUBBORN)]
    supervisor = Supervisor(services, tmp_path, tmp_path / "status.json")
    seen = []

    def poll():
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        if all(log.exists() and "up" in log.read_text() for log in logs):
            seen.extend(pid_of(tmp_path, name) for name in "ab")
            stop.set()

    supervisor.run(stop, poll)
    assert len(seen) == 2 and not any(map(is_alive, seen))
    status = read_status(tmp_path / "status.json")
    assert not status["alive"]
    assert status["services"]["b"]["last_exit"] == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_services_end_when_their_supervisor_is_killed(tmp_path):
    code = (
        "import sys, threading; from pathlib import Path\n"
        "from fedm2ct.deployment.processes import Service, Supervisor\n"
        f"services = [Service('a', {SLEEP!r})]\n"
        f"here = Path({str(tmp_path)!r})\n"
        "Supervisor(services, here, here / 'status.json').run(threading.Event())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: pid_of(tmp_path, "a"), 20, "not started")
        service = pid_of(tmp_path, "a")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not is_alive(service), 10, "the service lives on")
