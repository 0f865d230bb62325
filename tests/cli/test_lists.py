"""``protocols`` and ``samples``: what is built in."""

import json

import pytest

from fedm2ct.data.samples import SAMPLES
from fedm2ct.physics.protocols import PROTOCOLS, protocol_from_dict

from ..runs import cli


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDM2CT_CACHE", str(tmp_path))


def test_protocols_are_all_listed(capsys):
    assert cli("protocols") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(PROTOCOLS)


def test_a_protocol_as_json_can_be_copied_into_a_configuration(capsys):
    assert cli("protocols", "--json", "demo-sparse") == 0
    assert protocol_from_dict(json.loads(capsys.readouterr().out)) == PROTOCOLS["demo-sparse"]


def test_all_protocols_as_json(capsys):
    assert cli("protocols", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == len(PROTOCOLS)


def test_a_typo_gets_the_closest_protocol(capsys):
    assert cli("protocols", "demo-sprase") == 1
    assert "did you mean demo-sparse" in capsys.readouterr().err


def test_samples_are_listed_with_licence_and_state(capsys):
    assert cli("samples") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SAMPLES)
    for line in lines:
        assert "not fetched" in line
        assert SAMPLES[line.split()[0]].licence in line
