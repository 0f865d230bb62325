"""Several units of work side by side, each in a process of its own.

Workers are spawned, not forked, with a fixed number of threads each. They tell the parent what
happens through a pipe of their own, so that a killed worker can block nobody. A Ctrl-C reaches the
parent only; it ends its workers by their process ids, and a worker whose parent dies ends itself.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from fedm2ct.errors import FedM2CTError

Event = dict[str, Any]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Job:
    """A unit of work.

    Attributes
    ----------
    name
        Unique name, part of every event and error.
    function
        A module-level function. It is called with `arguments` and ``on_event``, a function that
        takes an event (a dict of plain values). What it returns must be picklable, as must its
        arguments: they cross to another process of this machine.
    arguments
        Its keyword arguments.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class JobError(FedM2CTError):
    """A unit of work has failed; the others were stopped where they could be resumed.

    Attributes
    ----------
    details
        The worker's traceback, for debugging; empty if it died without one.
    job
        Name of the unit.
    """

    def __init__(self, message: str, details: str = "", job: str = "") -> None:
        super().__init__(message)
        self.details, self.job = details, job


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    on_event: Callable[[Event], None] = lambda _: None,
    threads: int = 1,
) -> dict[str, Any]:
    """Run units of work in up to `workers` processes at a time, started in the order given.

    Parameters
    ----------
    jobs
        What to run.
    workers
        Most processes at a time.
    on_event
        Called in this process with every event of every unit, to which ``"job"``, its name, is
        added.
    threads
        Threads that each worker may use for its arithmetic.

    Returns
    -------
    dict
        What each unit returned, by its name, in the order given.

    Raises
    ------
    JobError
        If a unit fails or dies; the others are then stopped.
    FedM2CTError
        If `workers` or `threads` is below 1, or two units have the same name.
    """
    if workers < 1 or threads < 1:
        raise FedM2CTError(f"workers is {workers} and threads {threads}: both must be at least 1")
    if len({job.name for job in jobs}) != len(jobs):
        raise FedM2CTError("two units of work have the same name: give each its own")
    results: dict[str, Any] = {}
    waiting, running = deque(jobs), list[_Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                with _thread_limit(threads), _interrupt_held_back():
                    running.append(_Worker(waiting.popleft(), threads))
            ready = wait([worker.pipe for worker in running])
            for worker in [w for w in running if w.pipe in ready]:
                if worker.receive(on_event, results):
                    running.remove(worker)
    finally:
        _stop(running)
    return {job.name: results[job.name] for job in jobs}


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, job: Job, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.job = job
        self.process: SpawnProcess = context.Process(
            target=_work,
            args=(job.function, dict(job.arguments), threads, theirs),
            name=job.name,
            daemon=True,
        )
        self.process.start()
        theirs.close()

    def receive(self, on_event: Callable[[Event], None], results: dict[str, Any]) -> bool:
        """Take one message; return whether the worker has done its work."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(_GRACE_SECONDS)
            raise JobError(
                f"{self.job.name}: its process ended unexpectedly (exit code "
                f"{self.process.exitcode}), perhaps for lack of memory; resume the run with fewer "
                "workers",
                job=self.job.name,
            ) from error
        if kind == "event":
            on_event({"job": self.job.name, **content})
            return False
        if kind == "error":
            message = f"{self.job.name}: {content['message']}"
            raise JobError(message, content["details"], self.job.name)
        results[self.job.name] = content
        self.process.join(_GRACE_SECONDS)
        self.close()
        return True

    def close(self) -> None:
        """Make sure that the process is gone."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _stop(workers: Sequence[_Worker]) -> None:
    """End workers by their process ids: ask first, insist after a while."""
    for worker in workers:
        with contextlib.suppress(ValueError):  # closed already, in an interrupted `receive`
            worker.process.terminate()
    for worker in workers:
        with contextlib.suppress(ValueError):
            worker.process.join(_GRACE_SECONDS)
            worker.close()


def _work(
    function: Callable[..., Any], arguments: dict[str, Any], threads: int, pipe: Connection
) -> None:
    """Run a unit of work in the worker process."""
    _end_with_the_parent()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    lock = threading.Lock()

    def tell(kind: str, content: object) -> None:
        with lock:
            pipe.send((kind, content))

    def leave(kind: str, content: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is leaving: let it do so tidily
        tell(kind, content)

    try:
        leave("done", function(**arguments, on_event=lambda event: tell("event", event)))
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        return  # the parent is gone
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sentence = str(error) if isinstance(error, FedM2CTError) else _describe(error)
        details = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError):
            leave("error", {"message": sentence, "details": details})


def _describe(error: BaseException) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _end_with_the_parent() -> None:
    """Turn the parent's wish, or its death, into a KeyboardInterrupt in the main thread."""

    def interrupt(signal_number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what follows is tidying up
        raise KeyboardInterrupt

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(_GRACE_SECONDS)
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _thread_limit(threads: int) -> Iterator[None]:
    """Set the variables that numerical libraries read once, when a new process imports them."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Keep a Ctrl-C waiting while a process starts: it must not hit the half-started worker."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
