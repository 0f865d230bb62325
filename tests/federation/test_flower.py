"""Flower's own programs as this project starts them."""

import importlib
import inspect
import subprocess
import sys
import types

import pytest

from fedm2ct.federation import flower


class Clock(types.ModuleType):
    """A clock that sleeps at once and remembers for how long."""

    def __init__(self):
        super().__init__("clock")
        self.now, self.slept = 100.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_a_node_looks_often_while_there_is_work_and_seldom_when_idle():
    clock = Clock()
    pacer = flower.Pacer(clock)
    pacer.sleep(0.5)
    pacer.sleep(3)
    assert clock.slept == [0.05, 0.05]
    clock.now += 20
    pacer.sleep(3)
    assert clock.slept[-1] == pytest.approx(1.0, rel=0.02)
    clock.now += 1000
    pacer.sleep(3)
    assert clock.slept[-1] == 3
    pacer.sleep(0.5)  # a message is in work again
    pacer.sleep(3)
    assert clock.slept[-1] == 0.05


def test_the_loop_of_the_installed_flwr_is_the_one_that_is_paced(monkeypatch):
    """Its waits are what `Pacer` tells apart: 3 s without a message, 0.5 s for the app's answer."""
    loop = importlib.import_module("flwr.supernode.start_client_internal")
    monkeypatch.setattr(loop, "time", loop.time)
    source = inspect.getsource(loop)
    assert source.count("time.sleep(3)") == 1
    assert source.count("time.sleep(0.5)") == 2
    assert source.count("time.sleep(") == 3
    flower.quicken()
    assert isinstance(loop.time, flower.Pacer)
    assert loop.time.monotonic() > 0


def test_waits_for_the_rest_of_a_message_are_shortened(monkeypatch):
    module = importlib.import_module(flower._PULLS)
    names = ("pull_objects", "pull_and_inflate_object_from_tree")
    for name in names:
        monkeypatch.setattr(getattr(module, name), "__kwdefaults__", {**kwdefaults(module, name)})
        assert kwdefaults(module, name)["initial_backoff"] >= flower.SHORTEST_S
    flower.quicken_pulls(300.0)
    for name in names:
        assert kwdefaults(module, name)["initial_backoff"] == flower.SHORTEST_S
        assert kwdefaults(module, name)["backoff_cap"] == 1.0
        assert kwdefaults(module, name)["max_time"] == 300.0


def kwdefaults(module, name):
    return getattr(module, name).__kwdefaults__


def test_another_flower_is_refused(monkeypatch):
    monkeypatch.setattr(flower, "_LOOP", "json")
    with pytest.raises(RuntimeError, match="use flwr"):
        flower.quicken()
    monkeypatch.setattr(flower, "_PULLS", "json")
    with pytest.raises(RuntimeError, match="use flwr"):
        flower.quicken_pulls()


@pytest.mark.parametrize("program", ["superlink", "supernode", "superexec"])
def test_the_programs_know_the_options_that_harden_them(program):
    done = subprocess.run(
        [sys.executable, "-m", "fedm2ct.federation.flower", program, "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "--superexec-auth-secret-file" in done.stdout
    wanted = {
        "superlink": ("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        "supernode": ("--auth-supernode-private-key", "--isolation"),
        "superexec": ("--root-certificates",),
    }[program]
    assert all(option in done.stdout for option in wanted)
