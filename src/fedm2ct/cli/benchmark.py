"""``fedm2ct benchmark``: every method in one setting, one table."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedm2ct.cli import options

if TYPE_CHECKING:
    from fedm2ct.pipeline.benchmark import Benchmark


@click.command("benchmark", epilog="Example: fedm2ct benchmark all-in-one --size tiny")
@click.argument("setting")
@options.size
@click.option("--methods", help="Only these, separated by commas.  [default: all]")
@click.option("--seeds", help="Only these, separated by commas.  [default: the size's]")
@options.more_scans
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder to write.  [default: runs/benchmark/SETTING-SIZE]",
)
@options.workers
@click.option(
    "--tuned",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Options that `fedm2ct tune` has found.  [default: those of the package]",
)
@click.option("--defaults", is_flag=True, help="Default options, nothing tuned.")
@click.option("--collect", is_flag=True, help="Train nothing: tables of what is finished.")
@click.option(
    "--restore",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Also count the finished units of a published SETTING-SIZE-units.json.",
)
@click.option(
    "--publish",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Also write benchmarks/results/ and docs/ of this checkout.",
)
def command(
    setting: str,
    size: str,
    methods: str | None,
    seeds: str | None,
    out: Path | None,
    workers: int | None,
    tuned: Path | None,
    defaults: bool,
    collect: bool,
    restore: Path | None,
    publish: Path | None,
    **scans: Any,  # noqa: ANN401 - options.more_scans, passed on
) -> None:
    """Run every method under every seed in SETTING: multi-vendor, all-in-one, hybrid or unseen.

    What is finished in the folder is skipped, what was broken off goes on; methods and seeds may be
    added later. Writes results.json and results.md.
    """
    from fedm2ct.pipeline.benchmark import Benchmark, checkout_folders
    from fedm2ct.pipeline.benchmark import publish as publish_record
    from fedm2ct.pipeline.train import check_names
    from fedm2ct.pipeline.tuned import Tuned, read_tuned

    if tuned is not None and defaults:
        raise click.UsageError("--tuned and --defaults exclude each other; leave one of them out")
    options.refuse_phantoms(publish, scans)
    if publish is not None:
        checkout_folders(publish)  # before hours of training
    wanted = options.loaded_setting(setting, size, scans)
    found = Tuned() if defaults else read_tuned(wanted, tuned)
    wanted = replace(
        wanted.with_options(found.options, str(tuned or "")),
        added=wanted.added + (" --defaults" if defaults else " --tuned FILE" if tuned else ""),
    )
    wanted = wanted.chosen(options.listed(methods), _numbers(seeds))
    check_names(wanted.config)
    folder = out or Path("runs") / "benchmark" / f"{setting}-{size}"
    bench = Benchmark(wanted, folder, found, options.default_workers(workers))
    if restore is not None:
        _restore(bench, restore)
    failures = [] if collect else _train(bench)
    record = bench.collect()
    click.echo(_table(record))
    click.echo(f"\nNumbers: {folder / 'results.json'}\nPage:    {folder / 'results.md'}")
    if publish is not None:
        for path in publish_record(record, bench.units(), publish):
            click.echo(f"Published: {path}")
    if failures:
        raise click.ClickException("; ".join(failures))


def _restore(bench: "Benchmark", file: Path) -> None:
    """Restore a file's units; say how many there were, and of the others why not."""
    from fedm2ct.pipeline.benchmark_units import unpack

    found = unpack(file, bench.run, bench.setting)
    click.echo(f"Restored: {found.pop('', 0)} finished units", err=True)
    for reason, number in found.items():
        click.echo(f"Not restored: {number} {reason}", err=True)


def _train(bench: "Benchmark") -> list[str]:
    """Say what is run and with which tuned options, then run it; return what failed."""
    from fedm2ct.cli.progress import RunProgress

    config = bench.setting.config
    methods = f"{len(config.methods)} method{'s' * (len(config.methods) > 1)}"
    click.echo(
        f"{bench.setting.title}: {len(config.sites)} sites, {methods}, seeds "
        f"{', '.join(map(str, config.seeds))}, {config.training.rounds} rounds of "
        f"{config.training.local_steps} steps, {config.image_size} x {config.image_size}.",
        err=True,
    )
    for method, values in bench.tuned.options.items():
        if method in config.methods:
            text = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
            click.echo(f"Tuned: {method} {text}", err=True)
    with RunProgress(config) as progress:
        return bench.train(progress)


def _numbers(text: str | None) -> list[int] | None:
    names = options.listed(text)
    try:
        return None if names is None else [int(name) for name in names]
    except ValueError:
        raise click.UsageError(f"--seeds takes whole numbers, not {text!r}") from None


def _table(record: dict[str, Any]) -> str:
    """Return mean PSNR / SSIM / RMSE over sites, best PSNR first."""
    rows = sorted(record["methods"].items(), key=lambda item: -item[1]["mean"]["psnr_db"]["mean"])
    lines = ["PSNR dB / SSIM over the full range, RMSE in HU inside the body, mean over sites"]
    for method, entry in rows:
        mean = {metric: value["mean"] for metric, value in entry["mean"].items()}
        lines.append(
            f"{method:<14} {mean['psnr_db']:6.2f} / {mean['ssim']:.3f} / {mean['rmse_hu']:4.0f}   "
            f"seeds {', '.join(map(str, entry['seeds']))}"
        )
    return "\n".join(lines)
