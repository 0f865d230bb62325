"""The command line: one file per command, loaded only when it is called."""

import importlib
import sys

import click

from fedm2ct import __version__
from fedm2ct.errors import FedM2CTError

_COMMANDS = {
    "demo": "fedm2ct.cli.demo",
    "train": "fedm2ct.cli.train",
    "evaluate": "fedm2ct.cli.evaluate",
    "reconstruct": "fedm2ct.cli.reconstruct",
    "simulate": "fedm2ct.cli.simulate",
    "protocols": "fedm2ct.cli.protocols",
    "samples": "fedm2ct.cli.samples",
}


class _LazyGroup(click.Group):
    """Imports a command's file when the command is wanted, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[name]).command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Federated low-dose CT reconstruction across sites with different scanners."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: errors are one sentence on stderr and an exit code that is not 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        cli.main(arguments, prog_name="fedm2ct", standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; a run goes on where it was with --resume.", err=True)
        sys.exit(130)
    except (FedM2CTError, OSError) as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
