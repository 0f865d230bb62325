"""The command line as a whole: quick help, one-sentence errors, exit codes."""

import subprocess
import sys
import warnings

import click
import pytest

import fedm2ct.cli
from fedm2ct import __version__
from fedm2ct.cli import _COMMANDS, main
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import JobError

from ..runs import cli, start

_NO_HEAVY_IMPORT = """
import sys
from fedm2ct.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leave:
    assert not leave.code, leave.code
slow = {"torch", "numpy", "scipy", "numba", "SimpleITK", "flwr", "matplotlib"} & set(sys.modules)
allowed = {"numpy"} if "protocols" in sys.argv and "--help" not in sys.argv else set()
assert not slow - allowed, slow
"""


@pytest.fixture
def failing(monkeypatch):
    """Make ``fedm2ct samples`` raise an error."""

    def put(error):
        @click.command("samples")
        def command():
            raise error

        monkeypatch.setattr("fedm2ct.cli.samples.command", command)

    return put


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["demo", "--help"], ["protocols"]]
)
def test_what_needs_no_computing_imports_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", _NO_HEAVY_IMPORT, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert cli(name, "--help") == 0
    assert f"Example: fedm2ct {name}" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    process = start("--version")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert __version__ in out


def test_an_unknown_command_gets_a_suggestion(capsys):
    assert cli("trian") == 2
    assert "no command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(capsys):
    assert cli("demo", "--quik") == 2
    assert "--quick" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FedM2CTError("file.toml: is wrong; correct it"), "Error: file.toml: is wrong; correct it"),
        (OSError(13, "Permission denied", "/data/x"), "Error: /data/x: Permission denied"),
        (MemoryError(), "Error: there is not enough memory"),
        (ValueError("odd\nsecond line"), "Error: ValueError: odd (run again with --debug"),
    ],
)
def test_an_error_is_one_sentence(failing, capsys, error, said):
    failing(error)
    assert cli("samples") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("place", [0, 1])
def test_debug_gives_the_traceback_and_that_of_the_worker(failing, capsys, place):
    failing(JobError("local/seed-0: is wrong", "the worker's own traceback"))
    arguments = ["samples"]
    arguments.insert(place, "--debug")
    with pytest.raises(JobError):
        main(arguments)
    assert "the worker's own traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [("samples", "Interrupted.\n"), ("train", "what is done is stored, go on with --resume.\n")],
)
def test_ctrl_c_is_told_with_what_to_do(monkeypatch, capsys, command, said):
    @click.command()
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(f"fedm2ct.cli.{command}.command", interrupted)
    assert cli(command) == 130
    assert capsys.readouterr().err.endswith(said)


def test_a_warning_is_a_sentence_and_comes_once(monkeypatch, capsys):
    @click.command()
    def warning():
        for _ in range(3):
            warnings.warn("the detector is short", UserWarning, stacklevel=1)

    monkeypatch.setattr("fedm2ct.cli.samples.command", warning)
    assert cli("samples") == 0
    assert capsys.readouterr().err == "Warning: the detector is short\n"


def test_the_commands_are_those_of_the_design():
    named = ["demo", "train", "evaluate", "reconstruct", "simulate", "protocols", "samples"]
    assert set(named) <= set(fedm2ct.cli._COMMANDS)
