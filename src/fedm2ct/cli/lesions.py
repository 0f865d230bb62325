"""``fedm2ct lesions``: how much of planted lesions a run's methods show."""

from pathlib import Path

import click

from fedm2ct.cli import options


@click.command("lesions", epilog="Example: fedm2ct lesions runs/demo --diameter 10 --contrast -40")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--diameter",
    "diameters",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Diameter in mm; repeatable.  [default: 6 and 10]",
)
@click.option(
    "--contrast",
    "contrasts",
    type=float,
    multiple=True,
    help="Contrast in HU, not 0; repeatable.  [default: -40 and 40]",
)
@click.option("--seed", type=int, default=None, help="Which seed's models.  [default: the first]")
@click.option("--methods", help="Only these, separated by commas; no report.  [default: all]")
def command(
    run: Path,
    diameters: tuple[float, ...],
    contrasts: tuple[float, ...],
    seed: int | None,
    methods: str | None,
) -> None:
    """Plant low-contrast discs into a run's test slices and measure what is left of them.

    Writes lesions.json into the run's folder and, for all methods, the report anew.
    """
    from fedm2ct.cli.progress import StepProgress
    from fedm2ct.cli.table import lesion_table
    from fedm2ct.pipeline.lesions import CONTRASTS_HU, DIAMETERS_MM, lesion_test
    from fedm2ct.pipeline.manifest import config_of, read_manifest
    from fedm2ct.pipeline.train import conclude

    if 0.0 in contrasts:
        raise click.BadParameter("a lesion of 0 HU is none", param_hint="--contrast")
    with StepProgress("reconstruction") as progress:
        result = lesion_test(
            run,
            diameters_mm=diameters or DIAMETERS_MM,
            contrasts_hu=contrasts or CONTRASTS_HU,
            seed=seed,
            methods=options.listed(methods),
            progress=progress,
        )
    click.echo(lesion_table(result))
    click.echo(f"\nNumbers: {run / 'lesions.json'}")
    if methods is None:
        conclude(config_of(run), run, read_manifest(run))
        click.echo(f"Report:  {run / 'report.html'}")
