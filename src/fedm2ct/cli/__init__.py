"""The command line: one file per command, loaded only when it is called."""

import difflib
import importlib
import sys

import click

from fedm2ct import __version__
from fedm2ct.errors import FedM2CTError
from fedm2ct.pipeline.notices import warnings_to

_COMMANDS = {
    "demo": "fedm2ct.cli.demo",
    "train": "fedm2ct.cli.train",
    "evaluate": "fedm2ct.cli.evaluate",
    "lesions": "fedm2ct.cli.lesions",
    "reconstruct": "fedm2ct.cli.reconstruct",
    "simulate": "fedm2ct.cli.simulate",
    "benchmark": "fedm2ct.cli.benchmark",
    "tune": "fedm2ct.cli.tune",
    "protocols": "fedm2ct.cli.protocols",
    "samples": "fedm2ct.cli.samples",
    "audit": "fedm2ct.cli.audit",
    "coordinator": "fedm2ct.cli.coordinator",
    "site": "fedm2ct.cli.site",
}
_RESUME = "; what is done is stored, go on with --resume."
_REPEAT = "; what is done is stored, give the same command to go on."
_AFTER_INTERRUPTION = {"demo": _RESUME, "train": _RESUME, "benchmark": _REPEAT, "tune": _REPEAT}


class _LazyGroup(click.Group):
    """Imports a command's file when the command is wanted, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            close = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}."
            raise click.UsageError(f"There is no command {name!r}; {hint}", ctx)
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
        with warnings_to(lambda text: click.echo(f"Warning: {text}", err=True)):
            cli.main(arguments, prog_name="fedm2ct", standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        command = arguments[0] if arguments else ""
        remedy = _AFTER_INTERRUPTION.get(command, ".")
        click.echo(f"Interrupted{remedy}", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            click.echo(getattr(error, "details", ""), err=True)  # a worker's own traceback
            raise
        click.echo(f"Error: {_sentence(error)}", err=True)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    """Return an error as one sentence for the user."""
    if isinstance(error, FedM2CTError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer workers, fewer slices or smaller images"
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line} (run again with --debug for the details)"


if __name__ == "__main__":
    main()
