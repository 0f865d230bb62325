"""``fedm2ct protocols``: what acquisition protocols are built in."""

import json

import click


@click.command("protocols", epilog="Example: fedm2ct protocols --json demo-sparse")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one protocol's fields as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the built-in protocols, or show one: its fields may be copied into a configuration."""
    from fedm2ct.physics.protocols import PROTOCOLS, get_protocol, protocol_to_dict

    if name is not None or as_json:
        chosen = [get_protocol(name)] if name else list(PROTOCOLS.values())
        found = [protocol_to_dict(p) for p in chosen]
        click.echo(json.dumps(found[0] if name else found, indent=1))
        return
    click.echo(
        f"{'name':<16} {'beam':<9} {'views':>5} {'bins':>5} {'FOV mm':>7} {'photons':>8}  source"
    )
    for protocol in PROTOCOLS.values():
        geometry, grid = protocol.geometry, protocol.grid
        click.echo(
            f"{protocol.name:<16} {getattr(geometry, 'detector', 'parallel'):<9} "
            f"{geometry.n_views:>5} {geometry.n_bins:>5} {grid.field_of_view_mm:>7.0f} "
            f"{protocol.photons:>8.2g}  {protocol.source}"
        )
