"""``fedm2ct coordinator``: the place where a federation's uploads are fused."""

import sys
from pathlib import Path

import click

from fedm2ct.cli import options

_FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group("coordinator", epilog="Example: fedm2ct coordinator init /srv/fedm2ct --host ct.org")
def command() -> None:
    """Run the coordinator of a federation of hospitals (docs/deploy.md)."""


@command.command("init", epilog="Example: fedm2ct coordinator init /srv/fedm2ct --host ct.org")
@_FOLDER
@click.option("--host", required=True, help="Name or address by which sites reach this machine.")
@click.option("--port", default=8443, show_default=True, help="The only port open to sites.")
@click.option("--listen", default="0.0.0.0", show_default=True, help="Address the proxy binds.")
@click.option("--superlink-port", default=9091, show_default=True, help="On 127.0.0.1 only.")
@click.option("--proxy/--no-proxy", default=True, help="Whether `up` starts nginx.")
def init(folder: Path, host: str, port: int, listen: str, superlink_port: int, proxy: bool) -> None:
    """Make FOLDER: keys, certificates, proxy, invitation, systemd unit."""
    from fedm2ct.deployment.certificates import certificate_fingerprint
    from fedm2ct.deployment.coordinator import init_coordinator
    from fedm2ct.deployment.settings import CoordinatorSettings, checked

    given = {"host": host, "port": port, "listen": listen, "proxy": proxy}
    settings = checked(CoordinatorSettings, {**given, "superlink_port": superlink_port})
    made = init_coordinator(folder, settings)
    click.echo(f"Settings:    {made.settings_file}\nInvitation:  {made.invitation}")
    click.echo(f"Authority:   {certificate_fingerprint(made.authority.read_bytes())}")
    click.echo("Give the invitation to every site, and read the authority to them over the phone.")


@command.command("register", epilog="Example: fedm2ct coordinator register /srv/fedm2ct A A.pub")
@_FOLDER
@click.argument("name")
@click.argument("key", type=click.Path(dir_okay=False, path_type=Path))
def register(folder: Path, name: str, key: Path) -> None:
    """Let the site NAME take part, by its public KEY file."""
    from fedm2ct.deployment import registry
    from fedm2ct.deployment.folders import CoordinatorFolder

    place = CoordinatorFolder(folder)
    place.settings()
    registry.register(place, name, key)
    click.echo(f"{name} may connect as soon as the coordinator is up.")


@command.command("remove", epilog="Example: fedm2ct coordinator remove /srv/fedm2ct A")
@_FOLDER
@click.argument("name")
def remove(folder: Path, name: str) -> None:
    """Refuse the site NAME from now on."""
    from fedm2ct.deployment import registry
    from fedm2ct.deployment.folders import CoordinatorFolder

    registry.remove(CoordinatorFolder(folder), name)
    click.echo(f"{name} is refused within a few seconds of the coordinator being up.")


@command.command("renew", epilog="Example: fedm2ct coordinator renew /srv/fedm2ct")
@_FOLDER
def renew(folder: Path) -> None:
    """Make the coordinator's certificate anew, before it expires; sites need nothing new."""
    from fedm2ct.deployment.certificates import days_left
    from fedm2ct.deployment.coordinator import renew_certificate
    from fedm2ct.deployment.folders import CoordinatorFolder

    place = CoordinatorFolder(folder)
    renew_certificate(place, place.settings().host)
    click.echo(f"Valid for {days_left(place.certificate)} days; start `coordinator up` again.")


@command.command("up", epilog="Example: fedm2ct coordinator up /srv/fedm2ct")
@_FOLDER
def up(folder: Path) -> None:
    """Run the coordinator's services until Ctrl-C or SIGTERM."""
    from fedm2ct.deployment.coordinator import coordinator_up
    from fedm2ct.deployment.folders import CoordinatorFolder
    from fedm2ct.deployment.processes import stopped_by_signals

    with stopped_by_signals() as stop:
        coordinator_up(CoordinatorFolder(folder.absolute()), stop, options.say)


@command.command("status", epilog="Example: fedm2ct coordinator status /srv/fedm2ct")
@_FOLDER
def status(folder: Path) -> None:
    """Show the services, and which sites are connected; exit code 1 if something is down."""
    from fedm2ct.deployment.folders import CoordinatorFolder
    from fedm2ct.deployment.status import coordinator_status

    lines, well = coordinator_status(CoordinatorFolder(folder))
    click.echo("\n".join(lines))
    if not well:
        sys.exit(1)


@command.command(
    "train", epilog="Example: fedm2ct coordinator train /srv/fedm2ct our.toml --out runs/our"
)
@_FOLDER
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@options.out_folder
@options.resume
def train(folder: Path, config: Path, out: Path, resume: bool) -> None:
    """Train CONFIG (TOML: sites and protocols, no scans) over the sites that are connected."""
    from fedm2ct.cli.progress import RunProgress
    from fedm2ct.deployment.federation_file import load_federation
    from fedm2ct.deployment.folders import CoordinatorFolder
    from fedm2ct.deployment.processes import interrupted_by_signals
    from fedm2ct.deployment.train import train_deployed

    parsed = load_federation(config)
    place = CoordinatorFolder(folder.absolute())
    with interrupted_by_signals(), RunProgress(parsed) as progress:
        train_deployed(place, parsed, out, resume=resume, on_event=progress)
    click.echo(f"Log: {out}/<method>/seed-<k>/metrics.jsonl; models are at the sites.")
