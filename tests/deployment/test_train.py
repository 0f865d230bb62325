"""Of a unit of work there is one run: it ends with its command, or keeps others out."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from fedm2ct.deployment import certificates, job, train
from fedm2ct.deployment.folders import FOLDER_VARIABLE, CoordinatorFolder
from fedm2ct.deployment.unit_of_work import UnitOfWork
from fedm2ct.errors import FedM2CTError
from fedm2ct.pipeline.run_lock import alone_in

from ..runs import cli

UNIT = UnitOfWork("tiny-1", "fedm2ct", 4, "f", [], {})


class Control:
    """A SuperLink whose run fares badly."""

    def __init__(self, error):
        self.error, self.stopped = error, []

    def start_run(self, bundle, config):
        return 7

    def run_status(self, run_id):
        raise self.error

    def stop_run(self, run_id):
        self.stopped.append(run_id)
        raise FedM2CTError("cannot be reached")


@pytest.fixture
def coordinator(tmp_path):
    folder = CoordinatorFolder(tmp_path / "coordinator")
    folder.jobs.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("error", [FedM2CTError("one call is lost"), KeyboardInterrupt()])
def test_a_run_that_is_followed_no_longer_is_stopped(coordinator, tmp_path, error):
    control = Control(error)
    config = SimpleNamespace(model_dump=lambda mode: {}, sites=[SimpleNamespace(name="A")])
    with pytest.raises(type(error)) as caught:
        train._train_unit(
            coordinator, control, config, tmp_path / "run", UNIT, False, lambda _: None
        )
    assert caught.value is error
    assert control.stopped == [7]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_is_interrupted(tmp_path, patients, monkeypatch, number):
    def told_to_end(*_, **__):
        before.append(signal.getsignal(number))
        os.kill(os.getpid(), number)
        signal.pause()

    from .loopback import Federation

    before = [signal.getsignal(number)]
    monkeypatch.setattr(train, "train_deployed", told_to_end)
    toml = Federation(tmp_path, patients, proxied=False).write_federation()
    assert cli("coordinator", "train", tmp_path, toml, "--out", tmp_path / "run") == 130
    assert signal.getsignal(number) == before[0] != before[1]


def test_a_hang_up_that_is_ignored_stays_so(monkeypatch):
    from fedm2ct.deployment.processes import interrupted_by_signals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interrupted_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def context(coordinator, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(coordinator.root))
    monkeypatch.setattr(job, "_END_S", 0.0)
    unit = tmp_path / "run" / "fedm2ct" / "seed-4"
    coordinator.job("one").write_text(json.dumps({"folder": str(unit)}))
    return SimpleNamespace(run_config={"job": "one"})


def test_a_job_is_alone_in_its_units_folder_beside_the_command(context, tmp_path, monkeypatch):
    seen = []

    def federate(*_):
        with pytest.raises(FedM2CTError, match="another command is working in"):
            job.run_job(None, context)
        seen.append("alone")

    monkeypatch.setattr(job, "_federate", federate)
    with alone_in(tmp_path / "run"):  # as `coordinator train` holds it all the time
        job.run_job(None, context)
    assert seen == ["alone"]


def test_a_second_job_does_not_begin_while_the_first_lives(context, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_federate", lambda *_: pytest.fail("two in a folder"))
    unit = tmp_path / "run" / "fedm2ct" / "seed-4"
    with (
        alone_in(unit),
        pytest.raises(FedM2CTError, match=f"another command is working in {unit}"),
    ):
        job.run_job(None, context)


def test_the_sites_keys_are_those_that_they_hold(coordinator, tmp_path):
    config = SimpleNamespace(sites=[SimpleNamespace(name="A")])
    coordinator.sites.mkdir()
    with pytest.raises(FedM2CTError, match="A: not registered"):
        train._keys(coordinator, config)
    (coordinator.sites / "A.pub").write_text("hello")
    with pytest.raises(FedM2CTError, match=r"A\.pub: is no public key"):
        train._keys(coordinator, config)
    certificates.make_site_key(tmp_path / "site.key", tmp_path / "A.pub")
    commented = (tmp_path / "A.pub").read_text().strip() + " the hospital's remark\n"
    (coordinator.sites / "A.pub").write_text(commented)
    own = certificates.key_text(certificates.own_public_key(tmp_path / "site.key"))
    assert train._keys(coordinator, config) == {"A": own}
