"""``fedm2ct tune``: methods' own options, searched on validation patients."""

from pathlib import Path
from typing import Any

import click

from fedm2ct.cli import options


@click.command("tune", epilog="Example: fedm2ct tune all-in-one --method fedprox --budget 8")
@click.argument("setting")
@options.size
@click.option("--method", "methods", multiple=True, help="Repeatable.  [default: all with options]")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Trials of each method; the first has the default options.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=None,
    help="Rounds of a trial, fewer for a quicker search.  [default: the benchmark's]",
)
@click.option(
    "--defaults",
    is_flag=True,
    help="Take the defaults for the options in use, not the package's.",
)
@options.more_scans
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder to write.  [default: runs/tune/SETTING-SIZE]",
)
@options.workers
@click.option(
    "--publish",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Also write src/fedm2ct/settings/tuned/ of this checkout, which `benchmark` reads.",
)
def command(
    setting: str,
    size: str,
    methods: tuple[str, ...],
    budget: int,
    rounds: int | None,
    defaults: bool,
    out: Path | None,
    workers: int | None,
    publish: Path | None,
    **scans: Any,  # noqa: ANN401 - options.more_scans, passed on
) -> None:
    """Tune methods' own options in SETTING with the same budget for each.

    Scored on validation patients only; test patients are not read. What is done in the folder is
    not done again. Options in use stay where no trial gains more than noise (0.1 dB). Writes
    tuned.json, to be given to `fedm2ct benchmark --tuned`.
    """
    from fedm2ct.pipeline.search_spaces import SPACES
    from fedm2ct.pipeline.tuned import Tuned, publish_tuned, read_tuned, tuned_folder
    from fedm2ct.pipeline.tuning import tune

    options.refuse_phantoms(publish, scans)
    if publish is not None:
        tuned_folder(publish)  # before hours of trials
    wanted = options.loaded_setting(setting, size, scans)
    folder = out or Path("runs") / "tune" / f"{setting}-{size}"
    chosen = list(methods) or list(SPACES)
    side_by_side = options.default_workers(workers)
    in_use = Tuned() if defaults else read_tuned(wanted)
    record = tune(wanted, chosen, budget, folder, side_by_side, _show, rounds, in_use)
    for method in chosen:
        found = record["methods"][method]
        before, after = found["in_use"]["psnr_db"], found["psnr_db"]
        change = "in use already"
        if before is None:
            change = "those in use diverge"
        elif after != before:
            change = f"{after - before:+.2f} to those in use"
        values = _text(found["values"])
        click.echo(f"{method:<12} {after:.2f} dB ({change})  {values}")
    click.echo(f"\nOptions: {folder / 'tuned.json'}")
    if publish is not None:
        click.echo(f"Published: {publish_tuned(record, publish)}")


def _show(event: dict[str, Any]) -> None:
    """Show a finished trial, and warnings."""
    if event["event"] == "trial":
        score = event["psnr_db"]
        reached = "diverged" if score is None else f"{score:.2f} dB"
        click.echo(
            f"{event['job']:<12} {event['title']}: {reached}  {_text(event['values'])}", err=True
        )
    elif event["event"] == "warning":
        click.echo(f"Warning: {event['reason']}", err=True)


def _text(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
