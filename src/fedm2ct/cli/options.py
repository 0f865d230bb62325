"""Options and small helpers that several commands share."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedm2ct.config import RunConfig

out_folder = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write.",
)
resume = click.option(
    "--resume", is_flag=True, help="Go on with the run in the folder, from its last whole round."
)
workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Methods and seeds trained side by side, one thread each.  [default: the CPU's cores]",
)


def default_workers(given: int | None) -> int:
    """Return the number of worker processes: what was given, else one per available core."""
    if given is not None:
        return given
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_with_progress(
    config: "RunConfig", run: Path, resume: bool, workers: int | None
) -> dict[str, Any]:
    """Run a configuration, showing progress; print the table; return the summary."""
    from fedm2ct.cli.progress import RunProgress
    from fedm2ct.cli.table import metric_table
    from fedm2ct.pipeline.train import run_all

    began = time.monotonic()
    with RunProgress(config) as progress:
        summary = run_all(
            config, run, resume=resume, workers=default_workers(workers), on_event=progress
        )
    click.echo(metric_table(summary))
    click.echo(f"\nReport:  {run / 'report.html'}\nNumbers: {run / 'summary.json'}")
    click.echo(f"Done in {duration(time.monotonic() - began)}.")
    return summary


def say(text: str) -> None:
    """Print a line with the time, to standard error."""
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", err=True)


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
