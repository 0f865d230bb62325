"""What a run shows while it works: a bar on a terminal, and a row for each finished round.

All of it goes to standard error. Where that is no terminal, there are rows only.
"""

import os
import sys
from typing import Any, Self, TextIO

from tqdm import tqdm

from fedm2ct.config import RunConfig
from fedm2ct.pipeline.conventional import CONVENTIONAL

_HEADER = (
    f"{'method':<12} {'seed':>4} {'round':>7} {'val PSNR':>9} {'loss':>7} {'alpha':>6} {'s':>6}"
)


def bar_of(total: int, unit: str, stream: TextIO | None = None) -> "tqdm[Any]":
    """Return a progress bar, silent where the stream (standard error) is no terminal."""
    stream = stream or sys.stderr
    return tqdm(
        total=total,
        unit=unit,
        file=stream,
        disable=not stream.isatty(),
        smoothing=0.1,
        ncols=_columns(stream),
        nrows=20,
        leave=False,
    )


def _columns(stream: TextIO) -> int:
    """Return a terminal's width; 80 where it does not know its own, as in some containers."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class StepProgress:
    """A bar over steps of known number: a context manager, called with done, total and a text."""

    def __init__(self, unit: str) -> None:
        self.bar = bar_of(0, unit)

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the bar."""
        self.bar.close()

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that `done` of `total` steps are done, and what comes next."""
        if self.bar.disable:
            return
        self.bar.total = total
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)


class RunProgress:
    """A context manager; call it with every event of a run.

    Parameters
    ----------
    config
        The run's configuration.
    stream
        Where to show it; standard error by default.
    """

    def __init__(self, config: RunConfig, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.rounds = config.training.rounds
        trained = [m for m in config.methods if m not in CONVENTIONAL]
        self.total = len(trained) * len(config.seeds) * self.rounds
        self.done = 0
        self.bar = bar_of(self.total, "round", self.stream)
        self.active: dict[str, str] = {}
        self.seen: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self.told: set[str] = set()
        self.header = False

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the bar."""
        self.bar.close()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event."""
        kind, job = event.get("event"), str(event.get("job", ""))
        if kind == "note":
            self.bar.set_postfix_str(event["text"][:40])
        elif kind == "warning":
            self._once(f"Warning: {event['reason']}")
        elif kind in ("dropped", "failed"):
            self._say(
                f"{_label(job)}, round {event['round']}: {event['site']} {kind}: {event['reason']}"
            )
        elif kind == "start":
            self._started(job, int(event["round"]))
        elif kind == "site":
            self._working(job, f"{self.active.get(job, '').partition(' ')[0]} {event['site']}")
        elif kind == "round":
            self._logged(job, event)
        elif kind == "unit-done":
            self._finished(job, bool(event.get("before")))

    def _started(self, job: str, done: int) -> None:
        if done:
            self._say(f"{_label(job)}: goes on after round {done}")
            self._credit(done)
        self._working(job, f"{done + 1}/{self.rounds}")

    def _finished(self, job: str, before: bool) -> None:
        if before:
            self._say(f"{_label(job)}: is done already")
            self._credit(0 if job.partition("/")[0] in CONVENTIONAL else self.rounds)
        self.active.pop(job, None)

    def _working(self, job: str, what: str) -> None:
        """Show where every method that is at work is."""
        self.active[job] = what
        texts = [f"{name.partition('/')[0]} {at}" for name, at in self.active.items()]
        self.bar.set_postfix_str(", ".join(texts))

    def _credit(self, rounds: int) -> None:
        """Count rounds of an earlier call, which must not look like fast ones of this call."""
        self.done += rounds
        if not self.bar.disable:
            self.bar.initial += rounds
            self.bar.last_print_n += rounds
            self.bar.n += rounds
            self.bar.refresh()

    def _logged(self, job: str, event: dict[str, Any]) -> None:
        """Collect a round's lines; the server's line is its last."""
        key = (job, int(event["round"]))
        self.seen.setdefault(key, []).append(event)
        if event.get("site") == "server":
            self._row(key, self.seen.pop(key))
            self.done += 1
            self.bar.update(1)
            self._working(job, f"{min(key[1] + 1, self.rounds)}/{self.rounds}")

    def _row(self, key: tuple[str, int], events: list[dict[str, Any]]) -> None:
        if not self.header:
            self._say(_HEADER)
            self.header = True
        method, _, seed = key[0].partition("/seed-")
        psnr = _mean(events, "val_psnr_db")
        loss, alpha = _mean(events, "loss"), _mean(events, "alpha")
        seconds = sum(e.get("seconds") or 0.0 for e in events)
        place = f"{key[1]}/{self.rounds}"
        self._say(
            f"{method:<12} {seed:>4} {place:>7} {psnr:>9} {loss:>7} {alpha:>6} {seconds:>6.1f}"
        )

    def _once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self._say(text)

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self.stream)
        self.stream.flush()


def _label(job: str) -> str:
    return job.replace("/seed-", ", seed ")


def _mean(events: list[dict[str, Any]], name: str) -> str:
    values = [e[name] for e in events if isinstance(e.get(name), int | float)]
    return f"{sum(values) / len(values):.2f}" if values else "-"
