"""``demo``: the built-in configurations, and what happens without a network."""

import pytest

from fedm2ct.cli.demo import demo_config
from fedm2ct.data.samples import SAMPLES, SamplesUnavailable
from fedm2ct.pipeline.phantom_scans import is_phantom, phantom_scan
from fedm2ct.pipeline.train import check_names

from ..runs import cli


def all_scans(config):
    return [n for s in config.sites for n in s.scans] + config.test.scans + config.meta.scans


@pytest.fixture
def offline(monkeypatch):
    def fail(names):
        raise SamplesUnavailable("Sample lung1 is not cached and there is no network.")

    monkeypatch.setattr("fedm2ct.data.samples.fetch_many", fail)
    monkeypatch.setattr("fedm2ct.data.samples.is_cached", lambda name: False)


@pytest.fixture
def online(monkeypatch):
    fetched = []
    monkeypatch.setattr("fedm2ct.data.samples.fetch_many", fetched.extend)
    monkeypatch.setattr("fedm2ct.data.samples.is_cached", lambda name: True)
    return fetched


@pytest.mark.parametrize("name", ["demo", "demo-quick"])
def test_the_built_in_configurations(online, capsys, name):
    config = demo_config(name)
    check_names(config)
    scans = all_scans(config)
    assert set(scans) <= set(SAMPLES)
    assert len(set(scans)) == len(scans)
    assert len(config.sites) == 4
    assert set(config.methods) >= {"fbp", "local", "fedavg", "pooled", "fedm2ct"}
    assert online == scans
    assert capsys.readouterr().err == ""


def test_offline_the_demo_says_so_and_takes_phantoms(offline, capsys):
    config = demo_config("demo-quick")
    scans = all_scans(config)
    assert all(is_phantom(name) for name in scans)
    assert len(set(scans)) == len(scans)
    said = capsys.readouterr().err
    assert "no network" in said
    assert "analytic phantoms instead of real CT" in said
    assert phantom_scan(scans[0]).patient != phantom_scan(scans[1]).patient


def test_a_phantom_is_one_patient_however_its_number_is_written(monkeypatch):
    monkeypatch.setattr("fedm2ct.pipeline.phantom_scans._SLICES", 1)
    one, padded = phantom_scan("phantom-7"), phantom_scan("phantom-007")
    assert (one.hu == padded.hu).all()
    assert one.patient == padded.patient == one.name == padded.name == "phantom-7"


@pytest.mark.parametrize(("option", "folder"), [([], "demo"), (["--quick"], "demo-quick")])
def test_the_command_states_the_time_and_chooses_the_folder(
    online, monkeypatch, capsys, option, folder
):
    calls = []
    monkeypatch.setattr(
        "fedm2ct.cli.options.run_with_progress", lambda *arguments: calls.append(arguments)
    )
    assert cli("demo", *option, "--workers", 2, "--resume") == 0
    ((config, out, resume, workers),) = calls
    assert (config.name, out.as_posix(), resume, workers) == (folder, f"runs/{folder}", True, 2)
    assert "minute" in capsys.readouterr().err
