"""``fedm2ct lesions``: how much of planted lesions a run's methods show."""

from pathlib import Path

import click


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
def command(
    run: Path, diameters: tuple[float, ...], contrasts: tuple[float, ...], seed: int | None
) -> None:
    """Plant low-contrast discs into a run's test slices and measure what is left of them.

    Writes lesions.json into the run's folder and the report anew.
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
            progress=progress,
        )
    conclude(config_of(run), run, read_manifest(run))
    click.echo(lesion_table(result))
    click.echo(f"\nNumbers: {run / 'lesions.json'}\nReport:  {run / 'report.html'}")
