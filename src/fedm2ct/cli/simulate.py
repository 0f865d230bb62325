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
    from fedm2ct.data.projections import write_projections
    from fedm2ct.data.simulate import simulate
    from fedm2ct.data.sites import pick_slices
    from fedm2ct.learning.seeds import generator
    from fedm2ct.physics.protocols import get_protocol, warn_if_truncated
    from fedm2ct.pipeline.prepare import load_any
    from fedm2ct.units import relative_to_hu

    chosen = get_protocol(protocol)
    if size is not None:
        chosen = chosen.scaled(size)
    warn_if_truncated(chosen, chosen.grid.field_of_view_mm / 2)
    volume = load_any(scan)
    indices = pick_slices(volume, slices or len(volume.hu))
    data = simulate(volume, indices, chosen, generator(seed, "simulate"))
    provenance = {"scan": volume.name, "slices": list(indices), "seed": seed}
    truth = relative_to_hu(data.truth)
    write_projections(out, data.projections, chosen, truth_hu=truth, provenance=provenance)
    n, _, views, bins = data.projections.shape
    click.echo(f"{out}: {n} slices, {views} views x {bins} bins, {chosen.name}")
