"""``fedm2ct demo``: the main job on real CT, from nothing."""

from importlib.resources import files
from pathlib import Path

import click

from fedm2ct.cli import options
from fedm2ct.config import RunConfig

_DURATION = {"demo": "about 6 minutes", "demo-quick": "about a minute"}


@click.command("demo", epilog="Example: fedm2ct demo --out runs/demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder to write.  [default: runs/demo or runs/demo-quick]",
)
@click.option("--quick", is_flag=True, help="A short run to see that all works (not for numbers).")
@options.resume
@options.workers
def command(out: Path | None, quick: bool, resume: bool, workers: int | None) -> None:
    """Federate four sites on real CT, evaluate on a patient that none has seen, and report.

    Takes about 6 minutes on 2 CPU cores, about a minute with --quick, after the first fetch of
    the sample scans.
    """
    name = "demo-quick" if quick else "demo"
    config = demo_config(name)
    click.echo(
        f"{len(config.sites)} sites, {len(config.methods)} methods ({', '.join(config.methods)}): "
        f"{_DURATION[name]} on 2 CPU cores.",
        err=True,
    )
    options.run_with_progress(config, out or Path("runs") / name, resume, workers)


def demo_config(name: str) -> RunConfig:
    """Return a built-in configuration, on phantoms where the sample scans cannot be had."""
    import tomllib

    from fedm2ct.config import parse_config
    from fedm2ct.data.samples import SamplesUnavailable

    text = files("fedm2ct").joinpath("examples", f"{name}.toml").read_text(encoding="utf-8")
    config = parse_config(tomllib.loads(text), f"{name}.toml")
    try:
        _fetch(config)
    except SamplesUnavailable as error:
        click.echo(f"{error}\nThe demo runs on analytic phantoms instead of real CT.", err=True)
        return on_phantoms(config)
    return config


def _fetch(config: RunConfig) -> None:
    from fedm2ct.data.samples import SAMPLES, fetch_many, is_cached

    names = [n for site in config.sites for n in site.scans]
    names = [*names, *config.test.scans, *config.meta.scans]
    missing = {SAMPLES[name].package for name in names if not is_cached(name)}
    if missing:
        size = sum(package.megabytes for package in missing)
        click.echo(f"Fetching sample scans ({size} MB, once) ...", err=True)
    fetch_many(names)


def on_phantoms(config: RunConfig) -> RunConfig:
    """Return the configuration with every scan replaced by an analytic phantom."""
    count = iter(range(1, 1000))

    def phantoms(names: list[str]) -> list[str]:
        return [f"phantom-{next(count)}" for _ in names]

    sites = [s.model_copy(update={"scans": phantoms(s.scans)}) for s in config.sites]
    return config.model_copy(
        update={
            "name": f"{config.name}-phantoms",
            "sites": sites,
            "test": config.test.model_copy(update={"scans": phantoms(config.test.scans)}),
            "meta": config.meta.model_copy(update={"scans": phantoms(config.meta.scans)}),
        }
    )
