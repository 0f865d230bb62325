"""What docs/deploy.md tells people to type can be typed."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from fedm2ct.cli import cli as group
from fedm2ct.deployment.federation_file import NOT_DEPLOYED, load_federation
from fedm2ct.deployment.proxy import FLEET_CALLS
from fedm2ct.pipeline.conventional import CONVENTIONAL

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^fedm2ct .*$", PAGE, re.M)
COMMANDS += re.findall(r"`(fedm2ct [a-z]+ [a-z]+ /[^`]*)`", PAGE)


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_every_command_of_the_page_is_one(line):
    _, *words = shlex.split(line.partition("  #")[0])
    command, name = group, "fedm2ct"
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, line
    command.make_context(name, words)  # raises where an option or an argument is wrong


def test_the_page_has_the_whole_way():
    for step in ("coordinator init", "site init", "coordinator register", "coordinator up"):
        assert any(f"fedm2ct {step} " in line for line in COMMANDS), step
    for step in ("site join", "site up", "coordinator train", "site status", "coordinator status"):
        assert any(f"fedm2ct {step} " in line for line in COMMANDS), step


def test_the_configuration_of_the_page_is_one(tmp_path):
    text = re.search(r"```toml\n(.*?)```", PAGE, re.S)[1]
    path = tmp_path / "our.toml"
    path.write_text(text)
    config = load_federation(path)
    assert [site.name for site in config.sites] == ["A", "B"]
    assert tomllib.loads(text)["meta"]["scans"] == ["torso"]


def test_what_the_page_says_of_calls_and_methods_is_so():
    assert len(FLEET_CALLS) == 10 and "passes ten `POST` calls" in PAGE
    for method in NOT_DEPLOYED:
        if method not in CONVENTIONAL:
            assert f"`{method}`" in PAGE or method == "pooled_plain"
