import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fedm2ct
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, JobError, run_jobs


def double(value, on_event):
    on_event({"event": "half", "value": value})
    return 2 * value


def environment(on_event):
    return os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]


def fail(message, on_event):
    raise FedM2CTError(message)


def crash(on_event):
    raise ValueError("first line\nsecond line")


def die(on_event):
    os._exit(9)


def long(folder, name, on_event):
    """Work for a minute; note down the process, and that it was told to stop."""
    try:
        Path(folder, f"{name}.pid").write_text(str(os.getpid()))
        on_event({"event": "started"})
        time.sleep(60)
    except KeyboardInterrupt:
        Path(folder, f"{name}.stopped").touch()
        raise


def fail_when_others_run(folder, on_event):
    started = Path(folder, "slow.pid")
    wait_until(lambda: started.exists() and started.read_text())
    raise FedM2CTError("the disk is full")


def nest(folder, on_event):
    """Run jobs of its own, as a parent that is going to be killed."""
    run_jobs([Job("slow", long, {"folder": folder, "name": "slow"})], 1, on_event)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_results_and_events_of_more_jobs_than_workers():
    events = []
    jobs = [Job(f"job-{i}", double, {"value": i}) for i in range(3)]
    assert run_jobs(jobs, 2, events.append) == {"job-0": 0, "job-1": 2, "job-2": 4}
    assert sorted((e["job"], e["value"]) for e in events) == [(f"job-{i}", i) for i in range(3)]


def test_threads_are_limited_in_the_worker_only(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert run_jobs([Job("x", environment)], 1, threads=2) == {"x": ("2", "2")}
    assert os.environ["OMP_NUM_THREADS"] == "7" and "NUMBA_NUM_THREADS" not in os.environ


def test_failing_job_surfaces_and_stops_the_others(tmp_path):
    jobs = [
        Job("slow", long, {"folder": str(tmp_path), "name": "slow"}),
        Job("bad", fail_when_others_run, {"folder": str(tmp_path)}),
        Job("never", long, {"folder": str(tmp_path), "name": "never"}),
    ]
    with pytest.raises(JobError, match=r"^bad: the disk is full$") as error:
        run_jobs(jobs, 2)
    assert "Traceback" in error.value.details
    assert (tmp_path / "slow.stopped").exists()
    assert gone(int((tmp_path / "slow.pid").read_text()))
    assert not (tmp_path / "never.pid").exists()


def test_crash_is_told_in_one_sentence():
    with pytest.raises(JobError, match=r"^x: ValueError: first line$") as error:
        run_jobs([Job("x", crash)], 1)
    assert "second line" in error.value.details


def test_dead_worker_is_noticed():
    with pytest.raises(JobError, match=r"x: its process ended unexpectedly \(exit code 9\)"):
        run_jobs([Job("x", die)], 1)


def test_ctrl_c_leaves_no_orphan(tmp_path):
    jobs = [Job(n, long, {"folder": str(tmp_path), "name": n}) for n in ("a", "b")]
    started = []

    def on_event(event):
        started.append(event["job"])
        if len(started) == 2:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 2, on_event)
    for name in ("a", "b"):
        assert (tmp_path / f"{name}.stopped").exists()
        assert gone(int((tmp_path / f"{name}.pid").read_text()))


def test_worker_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "from tests.federation.test_jobs import nest\n"
        f"if __name__ == '__main__': nest({str(tmp_path)!r}, print)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    paths = [Path(fedm2ct.__file__).parents[1], Path(__file__).parents[2]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.DEVNULL)
    pid_file = tmp_path / "slow.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    parent.kill()
    parent.wait()
    wait_until((tmp_path / "slow.stopped").exists)
    wait_until(lambda: gone(int(pid_file.read_text())))


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0)])
def test_senseless_numbers_are_refused(workers, threads):
    with pytest.raises(FedM2CTError, match="at least 1"):
        run_jobs([], workers, threads=threads)


def test_names_must_be_unique():
    with pytest.raises(FedM2CTError, match="same name"):
        run_jobs([Job("x", crash), Job("x", crash)], 1)
