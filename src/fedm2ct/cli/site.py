"""``fedm2ct site``: a hospital that takes part in a federation."""

import sys
from pathlib import Path

import click

from fedm2ct.cli import options

_FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group("site", epilog="Example: fedm2ct site init /srv/fedm2ct-site --name A")
def command() -> None:
    """Run a site of a federation: its scans and private parts never leave it (docs/deploy.md)."""


@command.command("init", epilog="Example: fedm2ct site init /srv/fedm2ct-site --name A")
@_FOLDER
@click.option("--name", required=True, help="The site's name, as agreed with the coordinator.")
@click.option("--protocol", default="demo-low-mas", show_default=True, help="Its protocol.")
@click.option("--supernode-port", default=9094, show_default=True, help="On 127.0.0.1 only.")
def init(folder: Path, name: str, protocol: str, supernode_port: int) -> None:
    """Make FOLDER: settings to fill in, a key pair, a systemd unit."""
    from fedm2ct.deployment.site import init_site

    made = init_site(folder, name, protocol, supernode_port)
    click.echo(f"Settings:   {made.settings_file} (fill in the scans)")
    click.echo(f"Public key: {made.public_key(name)} (hand this file to the coordinator)")
    click.echo(f"Private:    {made.private_key} never leaves this machine.")


@command.command("join", epilog="Example: fedm2ct site join /srv/fedm2ct-site invitation.toml")
@_FOLDER
@click.argument("invitation", type=click.Path(dir_okay=False, path_type=Path))
def join(folder: Path, invitation: Path) -> None:
    """Accept the coordinator's INVITATION and see whether it answers."""
    from fedm2ct.deployment import site
    from fedm2ct.deployment.folders import SiteFolder

    place = SiteFolder(folder)
    fingerprint = site.join(place, invitation)
    click.echo(f"Authority: {fingerprint}\nCompare it with the coordinator over the phone.")
    site.check_connection(place)
    click.echo("The coordinator answers.")


@command.command("up", epilog="Example: fedm2ct site up /srv/fedm2ct-site")
@_FOLDER
def up(folder: Path) -> None:
    """Run the site's services until Ctrl-C or SIGTERM."""
    from fedm2ct.deployment.folders import SiteFolder
    from fedm2ct.deployment.processes import stopped_by_signals
    from fedm2ct.deployment.site import site_up

    with stopped_by_signals() as stop:
        site_up(SiteFolder(folder.absolute()), stop, options.say)


@command.command("status", epilog="Example: fedm2ct site status /srv/fedm2ct-site")
@_FOLDER
def status(folder: Path) -> None:
    """Show the services and the last round of every run; exit code 1 if something is down."""
    from fedm2ct.deployment.folders import SiteFolder
    from fedm2ct.deployment.status import site_status

    lines, well = site_status(SiteFolder(folder))
    click.echo("\n".join(lines))
    if not well:
        sys.exit(1)
