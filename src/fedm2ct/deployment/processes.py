"""Services kept running: started, watched, started again after a pause, ended by process id."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedm2ct.files import write_atomically

_PAUSES_S = (2.0, 5.0, 10.0, 20.0, 30.0)
_STEADY_S = 60.0
_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Service:
    """A process that should always be there.

    Attributes
    ----------
    name
        Its name in the status and in the log folder.
    command
        What to start.
    environment
        Variables to set beside those of this process.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Keeps services running until it is told to stop.

    A service that ends is started again, after a pause that grows from 2 s to 30 s and is short
    again once the service has run for a minute: Flower's server refuses a node that comes back
    within about a minute of a crash, so several attempts may be needed.

    Parameters
    ----------
    services
        In the order in which they are started.
    logs
        Folder of their output, ``NAME.log``.
    status_file
        JSON, written anew whenever something changes.
    tell
        Called with a sentence when a service is started or has ended.
    """

    def __init__(
        self,
        services: Sequence[Service],
        logs: Path,
        status_file: Path,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._kept = [_Kept(service, logs / f"{service.name}.log") for service in services]
        self._status_file = status_file
        self._tell = tell

    def run(self, stop: threading.Event, poll: Callable[[], None] = lambda: None) -> None:
        """Start the services and watch them until `stop` is set; then end them.

        Parameters
        ----------
        stop
            Set by a signal handler or by another thread.
        poll
            Called about twice a second while the services run.
        """
        try:
            while not stop.is_set():
                if any([self._tend(kept) for kept in self._kept]):
                    self._write_status()
                poll()
                stop.wait(0.5)
        finally:
            for kept in reversed(self._kept):
                kept.ask_to_end()
            deadline = time.monotonic() + _GRACE_S
            for kept in self._kept:
                kept.end(deadline)
            self._write_status(stopped=True)

    def _tend(self, kept: "_Kept") -> bool:
        """Start a service that is not there; return whether anything has changed."""
        now = time.monotonic()
        ended = kept.ended(now)
        if ended is not None:
            self._tell(f"{kept.service.name} has ended (exit code {ended}); see {kept.log}")
        if kept.process is not None or now < kept.not_before:
            return ended is not None
        kept.start(now)
        self._tell(f"{kept.service.name} started (process {kept.pid})")
        return True

    def _write_status(self, stopped: bool = False) -> None:
        status = {
            "supervisor": None if stopped else os.getpid(),
            "services": {kept.service.name: kept.status() for kept in self._kept},
        }
        with contextlib.suppress(Exception):  # a full disk must not end the services
            write_atomically(self._status_file, json.dumps(status, indent=1).encode(), mode=0o600)


class _Kept:
    """One service's process."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service, self.log = service, log
        self.process: subprocess.Popen[bytes] | None = None
        self.not_before = 0.0
        self.starts = 0
        self.last_exit: int | None = None
        self._pauses = 0
        self._started = 0.0
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def start(self, now: float) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab", opener=lambda p, f: os.open(p, f, 0o600)) as stream:
            self.process = subprocess.Popen(
                list(self.service.command),
                env={**os.environ, **self.service.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_the_parent,
            )
        self.starts += 1
        self._started, self._started_at = now, time.time()

    def ended(self, now: float) -> int | None:
        """Return the exit code of a service that has ended since the last call."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process, self.last_exit = None, code
        self._pauses = 0 if now - self._started > _STEADY_S else self._pauses
        self.not_before = now + _PAUSES_S[min(self._pauses, len(_PAUSES_S) - 1)]
        self._pauses += 1
        return code

    def ask_to_end(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the end; insist when the time is over."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.last_exit, self.process = self.process.returncode, None

    def status(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "since": self._started_at if self.process is not None else None,
            "starts": self.starts,
            "last_exit": self.last_exit,
        }


def _end_with_the_parent() -> None:
    """Ask the kernel to end this process when its supervisor is killed; runs after the fork."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def read_status(path: Path) -> dict[str, Any] | None:
    """Return what a supervisor has written, with ``"alive"`` for each service; None if nothing."""
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for service in status["services"].values():
        service["alive"] = is_alive(service["pid"])
    status["alive"] = is_alive(status["supervisor"])
    return status


def is_alive(pid: int | None) -> bool:
    """Return whether there is a process of this number."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turn SIGTERM, and SIGHUP where it is not ignored (nohup), into a KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # once: what follows is tidying up
        raise KeyboardInterrupt

    wanted = (signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.getsignal(n) for n in wanted if signal.getsignal(n) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Provide an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
