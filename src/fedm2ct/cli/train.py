"""``fedm2ct train``: a run from a configuration file."""

from pathlib import Path

import click

from fedm2ct.cli import options


@click.command("train", epilog="Example: fedm2ct train examples/small.toml --out runs/small")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@options.out_folder
@options.resume
@options.workers
def command(config: Path, out: Path, resume: bool, workers: int | None) -> None:
    """Federate the sites of CONFIG (TOML), evaluate on its test patients and report."""
    from fedm2ct.config import ConfigError, load_config

    parsed = load_config(config)
    try:
        options.run_with_progress(parsed, out, resume, workers)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
