"""Options and small helpers that several commands share."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedm2ct.config import RunConfig
    from fedm2ct.pipeline.settings import Setting

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
size = click.option(
    "--size",
    type=click.Choice(["tiny", "small", "full"]),
    default="small",
    show_default=True,
    help="tiny: all runs, in minutes; small: 128 x 128, hours; full: 512 x 512, a GPU.",
)
_MORE_SCANS = (
    click.option(
        "--scans",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="Folder of more patients, a file or folder each; roles go by their sorted names.",
    ),
    click.option(
        "--validation-patients",
        type=click.IntRange(min=0),
        default=None,
        help="How many of --scans tune: the first.  [default: the setting's number]",
    ),
    click.option(
        "--test-patients",
        type=click.IntRange(min=0),
        default=None,
        help="How many of --scans test: the next.  [default: the setting's number]",
    ),
    click.option("--phantoms", is_flag=True, help="Analytic phantoms in place of all scans."),
)


def more_scans(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which scans; `loaded_setting` takes them."""
    for option in reversed(_MORE_SCANS):
        function = option(function)
    return function


def loaded_setting(name: str, size: str, scans: Mapping[str, Any]) -> "Setting":
    """Return a benchmark's setting with the scans that the options of `more_scans` ask for."""
    from fedm2ct.pipeline.settings import load_setting

    numbers = {role: scans[f"{role}_patients"] for role in ("validation", "test")}
    return load_setting(
        name,
        size,
        scans["scans"],
        roles={role: number for role, number in numbers.items() if number is not None},
        phantoms=scans["phantoms"],
    )


def refuse_phantoms(publish: Path | None, scans: Mapping[str, Any]) -> None:
    """Refuse to put numbers of phantoms in the place of a setting's own."""
    if publish is not None and scans["phantoms"]:
        raise click.UsageError("--publish is for results of scans; leave it or --phantoms out")


def listed(text: str | None) -> list[str] | None:
    """Return the entries of a text separated by commas."""
    return None if text is None else [entry.strip() for entry in text.split(",") if entry.strip()]


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
