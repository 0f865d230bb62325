"""``fedm2ct evaluate``: a run's methods on scans that it has never seen."""

from pathlib import Path

import click

from fedm2ct.cli import options


@click.command(
    "evaluate",
    epilog="Example: fedm2ct evaluate runs/demo --scan liver.nii.gz --out runs/demo-on-liver",
)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--scan",
    "scans",
    multiple=True,
    required=True,
    help="DICOM folder, NIfTI, NRRD, npz (hu, spacing_zyx_mm) or a sample's name; repeatable.",
)
@click.option("--site", "sites", multiple=True, help="Only this site; repeatable.  [default: all]")
@click.option("--slices", type=click.IntRange(min=1), default=None, help="Slices of each scan.")
@click.option("--seed", type=int, default=None, help="Which seed's models.  [default: the first]")
@click.option(
    "--allow-seen", is_flag=True, help="Accept a scan of a patient that the run was trained on."
)
@click.option(
    "--perceptual/--no-perceptual",
    default=None,
    help="LPIPS and a Frechet distance; fetches 64 MB once.  [default: as the run's configuration]",
)
@options.out_folder
def command(
    run: Path,
    scans: tuple[str, ...],
    sites: tuple[str, ...],
    slices: int | None,
    seed: int | None,
    allow_seen: bool,
    perceptual: bool | None,
    out: Path,
) -> None:
    """Simulate each site's acquisition of normal-dose scans, reconstruct, score.

    Writes metrics.json and arrays.npz (truth_hu/SITE and METHOD/SITE in HU, on the site's grid;
    truth_hu is the first site's).
    """
    from fedm2ct.cli.progress import StepProgress
    from fedm2ct.cli.table import metric_table
    from fedm2ct.pipeline.evaluate import evaluate_run

    with StepProgress("reconstruction") as progress:
        summary = evaluate_run(
            run,
            scans,
            out,
            sites=sites,
            slices=slices,
            seed=seed,
            allow_seen=allow_seen,
            progress=progress,
            perceptual=perceptual,
        )
    click.echo(metric_table(summary))
    click.echo(f"\nNumbers: {out / 'metrics.json'}\nImages:  {out / 'arrays.npz'}")
