"""``fedm2ct reconstruct``: measured projections through a site's trained model."""

from pathlib import Path

import click


@click.command(
    "reconstruct",
    epilog="Example: fedm2ct reconstruct runs/demo --site A --projections a.h5 --out a.nii.gz",
)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--site", required=True, help="Whose model; the projections need its geometry.")
@click.option(
    "--projections",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="HDF5 file as `fedm2ct simulate` writes it.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Image to write in HU: .nii.gz, .nii, .nrrd or .npz.",
)
@click.option("--method", default="fedm2ct", show_default=True, help="Which of the run's methods.")
@click.option("--seed", type=int, default=None, help="Which seed's model.  [default: the first]")
def command(
    run: Path, site: str, projections: Path, out: Path, method: str, seed: int | None
) -> None:
    """Reconstruct projections with the model of SITE."""
    from fedm2ct.cli.progress import StepProgress
    from fedm2ct.pipeline.reconstruct import reconstruct_file

    with StepProgress("slice") as progress:
        shape = reconstruct_file(run, site, projections, out, method, seed, progress)
    click.echo(f"{out}: {shape[0]} slices of {shape[1]} x {shape[2]} in HU, by {method}")
