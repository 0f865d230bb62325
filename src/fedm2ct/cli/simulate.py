"""``fedm2ct simulate``: a scan's low-dose projections under a protocol."""

from pathlib import Path

import click


@click.command(
    "simulate",
    epilog="Example: fedm2ct simulate --scan lung1 --protocol demo-sparse --out lung1.h5",
)
@click.option("--scan", required=True, help="DICOM folder, NIfTI, NRRD, npz or a sample's name.")
@click.option("--protocol", required=True, help="A name that `fedm2ct protocols` prints.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="HDF5 to write."
)
@click.option("--size", type=click.IntRange(min=16), default=None, help="Image size in pixels.")
@click.option("--slices", type=click.IntRange(min=1), default=None, help="Evenly spaced slices.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
def command(
    scan: str, protocol: str, out: Path, size: int | None, slices: int | None, seed: int
) -> None:
    """Simulate the acquisition of SCAN (normal dose, HU) under a named protocol."""
    from fedm2ct.cli.progress import StepProgress
    from fedm2ct.pipeline.simulate import simulate_file

    with StepProgress("slice") as progress:
        n, _, views, bins = simulate_file(scan, protocol, out, size, slices, seed, progress)
    click.echo(f"{out}: {n} slices, {views} views x {bins} bins")
