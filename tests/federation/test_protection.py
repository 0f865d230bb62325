"""Compression, noise and robust averages around every method, through the engine."""

import json
import math
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fedm2ct.config import ConfigError
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.protected_client import ProtectedClient
from fedm2ct.federation.protection import protect
from fedm2ct.federation.robust import average_by
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import load_tensors
from tests import tiny

from .toy import ToyClient, ToyServer, run_toy

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
ROUNDS = 3
NOISE = {
    "update_clip": 0.05,
    "update_noise": 0.1,
    "slice_clip": 1.0,
    "slice_noise": 0.5,
    "reproducible": True,
}


def protected(method, seed=3, **tables):
    setup = tiny.setup(seed, **tables)
    return protect(METHODS[method](setup), setup)


class Interrupted(Exception):
    """A run that is broken off."""


def run(folder, method, *, stop_after=None, resume=False, halves=None, **tables):
    def on_event(event):
        if event["event"] == "checkpoint" and event["round"] == stop_after:
            raise Interrupted

    halves = halves or protected(method, **tables)
    result = run_method(
        halves.server,
        halves.clients,
        ROUNDS,
        folder,
        resume=resume,
        seed=3,
        fingerprint="config",
        on_event=on_event,
    )
    return halves, result


def log(folder, site=None):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [e for e in lines if site is None or e["site"] == site]


def everything(folder):
    files = [
        folder / "checkpoints" / f"round-{ROUNDS:04d}.safetensors",
        *sorted(folder.glob(f"sites/*/private-{ROUNDS:04d}.safetensors")),
    ]
    assert len(files) == 3
    return {
        f"{path.relative_to(folder)}/{n}": t
        for path in files
        for n, t in load_tensors(path)[0].items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_both_halves_agree_on_what_an_upload_is_a_change_of(method):
    halves = METHODS[method](tiny.setup())
    shared = halves.server.initial_shared()
    like = halves.server.upload_like(shared)
    for client in halves.clients.values():
        base = client.changes_of(shared)
        for name, tensor in like.items():
            if tensor.is_floating_point():
                expected = base.get(name, torch.zeros_like(tensor))
                assert torch.equal(tensor, expected), name


def test_under_the_defaults_nothing_is_changed():
    halves = protected("fedavg")
    assert not any(isinstance(c, ProtectedClient) for c in halves.clients.values())
    assert halves.server.compression == "none"


@pytest.mark.parametrize("method", ["local", "pooled"])
def test_a_method_that_sends_nothing_is_left_alone(method):
    halves = protected(
        method, federation={"compression": "int8", "aggregation": "median"}, privacy=NOISE
    )
    assert not any(isinstance(c, ProtectedClient) for c in halves.clients.values())
    assert all(trainer.privacy is None for trainer in halves.trainers.values())


VARIANTS = {
    "fedavg int8": {"federation": {"compression": "int8"}},
    "scaffold int8": {"federation": {"compression": "int8"}},
    "fednova fp16": {"federation": {"compression": "fp16"}},
    "fedm2ct int8": {"federation": {"compression": "int8", "aggregation": "median"}},
    "fedavg noise": {"privacy": NOISE},
    "fedm2ct noise": {"federation": {"compression": "int8"}, "privacy": NOISE},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_gives_the_same_bits(variant, tmp_path):
    if "noise" in variant:
        pytest.importorskip("dp_accounting")
    method, tables = variant.split()[0], VARIANTS[variant]
    run(tmp_path / "whole", method, **tables)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", method, stop_after=2, **tables)
    run(tmp_path / "parts", method, resume=True, **tables)
    assert tiny.same(everything(tmp_path / "parts"), everything(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("kind", "method"), [("int8", "fedavg"), ("fp16", "fednova"), ("int8", "scaffold")]
)
def test_a_compressed_run_ends_near_the_plain_one(kind, method, tmp_path):
    _, plain = run(tmp_path / "plain", method)
    halves, result = run(tmp_path / kind, method, federation={"compression": kind})
    assert not [e for e in log(tmp_path / kind) if e["event"] == "dropped"]
    start = METHODS[method](tiny.setup()).server.initial_shared()
    moved = math.sqrt(sum(float((plain.shared[n] - t).square().sum()) for n, t in start.items()))
    apart = math.sqrt(
        sum(float((plain.shared[n] - t).square().sum()) for n, t in result.shared.items())
    )
    assert 0 < apart < (0.1 if kind == "int8" else 0.01) * moved
    assert any(bool(t.any()) for t in halves.clients["A"].feedback.values())


@pytest.mark.parametrize(("kind", "share"), [("fp16", 0.5), ("int8", 0.25)])
def test_bytes_on_the_wire(kind, share, tmp_path):
    networks = {"model": {"width": 16}, "training": {"local_steps": 1}}
    run(tmp_path / "plain", "fedavg", **networks)
    run(tmp_path / kind, "fedavg", federation={"compression": kind}, **networks)
    plain, packed = (log(tmp_path / k, "A")[0] for k in ("plain", kind))
    assert packed["bytes_up"] <= share * plain["bytes_up"]
    assert packed["bytes_down"] == plain["bytes_down"]


def test_an_upload_of_another_form_is_dropped_and_the_round_goes_on(tmp_path):
    class Plain(ProtectedClient):
        def _compressed(self, update, base, round_index):
            return update

    halves = protected("fedavg", federation={"compression": "int8"})
    halves.clients["A"] = Plain(halves.clients["A"].inner, halves.clients["A"].protection)
    run(tmp_path, "fedavg", halves=halves)
    dropped = [e for e in log(tmp_path) if e["event"] == "dropped"]
    assert [(e["round"], e["site"]) for e in dropped] == [(1, "A"), (2, "A"), (3, "A")]
    assert "not expected" in dropped[0]["reason"] or "missing" in dropped[0]["reason"]


@pytest.mark.parametrize("compression", ["fp16", "int8"])
@pytest.mark.parametrize("method", ["fedavg", "fedm2ct", "scaffold"])
def test_a_site_without_pairs_abstains_under_compression(method, compression, tmp_path):
    setup = tiny.setup(unpaired=("A",), federation={"compression": compression})
    run(tmp_path, method, halves=protect(METHODS[method](setup), setup))
    assert not [e for e in log(tmp_path) if e["event"] in ("dropped", "failed")]
    assert len([e for e in log(tmp_path, "A") if e["event"] == "round"]) == ROUNDS


def test_a_site_without_pairs_adds_no_noise_and_tells_no_scalars():
    pytest.importorskip("dp_accounting")
    setup = tiny.setup(unpaired=("A",), federation={"compression": "int8"}, privacy=NOISE)
    halves = protect(METHODS["fedm2ct"](setup), setup)
    upload = halves.clients["A"].fit(1, halves.server.initial_shared())
    assert upload.abstains and upload.metrics == {}
    assert halves.clients["A"].inner.fit(2, halves.server.initial_shared()).metrics


def kept_back(client):
    return {name: tensor.clone() for name, tensor in client.feedback.items()}


@pytest.mark.parametrize("restarted", [False, True])
def test_what_rounding_kept_back_is_taken_back_with_an_upload_that_did_not_count(restarted):
    halves = protected("fedavg", federation={"compression": "int8"})
    client, shared = halves.clients["A"], halves.server.initial_shared()
    client.fit(1, shared)
    first = kept_back(client)
    client.heard(1)
    client.fit(2, shared)
    second = kept_back(client)
    assert not tiny.same(first, second)
    if restarted:
        state = client.private_state()
        client = protected("fedavg", federation={"compression": "int8"}).clients["A"]
        client.load_private_state(state)
    for counted, expected in ((3, second), (2, second), (1, first)):
        client.heard(counted)
        assert tiny.same(client.feedback, expected)


@pytest.mark.parametrize("method", ["scaffold", "fednova", "feddyn"])
def test_methods_with_equations_of_their_own_take_no_other_average(method):
    with pytest.raises(ConfigError, match="averages by equations of its own"):
        protected(method, federation={"aggregation": "median"})


@pytest.mark.parametrize(
    ("method", "ours"), [("fedavg_cross", {}), ("fedm2ct", {"cross_protocol": 1.0})]
)
def test_training_by_slice_does_not_go_with_a_loss_that_it_does_not_cover(method, ours):
    for slices in ({"slice_noise": 0.5, "slice_clip": 1.0}, {"slice_clip": 1.0}):
        with pytest.raises(ConfigError, match="does not cover"):
            protected(method, privacy=slices, fedm2ct=ours)
    protected(method, privacy={"update_noise": 0.5, "update_clip": 1.0}, fedm2ct=ours)


OTHERWISE = {"scaffold", "fednova", "feddyn", "local", "local_public", "pooled", "pooled_plain"}


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in OTHERWISE])
def test_every_averaging_method_takes_the_rule(method, rule):
    halves = protected(method, federation={"aggregation": rule})
    shared = halves.server.initial_shared()
    asked = []

    def average(uploads):
        asked.append(len(uploads))
        return average_by(rule, 0.2)(uploads)

    halves.server.average = average
    uploads = [Upload(f"s{i}", {n: t + i for n, t in shared.items()}, 1) for i in range(3)]
    halves.server.aggregate(1, shared, uploads)
    assert asked == [3]


class Hostile(ToyClient):
    """Turns its update round, or makes it a thousand times as long, from round 2 on."""

    def __init__(self, name, factor):
        super().__init__(name)
        self.factor = factor

    def fit(self, round_index, shared):
        good = super().fit(round_index, shared)
        factor = self.factor if round_index > 1 else 1.0
        sent = {n: shared[n] + factor * (good.shared[n] - shared[n]) for n in shared}
        return Upload(self.site, sent, 16, good.metrics)


@pytest.mark.parametrize("factor", [1000.0, -9.0])
@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
def test_one_hostile_site_of_five(factor, rule, tmp_path, monkeypatch):
    """Without the checks of length and direction: the average alone has to hold out."""
    for check in ("too_long", "opposed"):
        monkeypatch.setattr(f"fedm2ct.federation.validation.{check}", lambda *_: {})
    sites = "ABCDE"

    def final(name, clients):
        server = ToyServer()
        server.average = average_by(rule, 0.2)
        return run_toy(tmp_path / name, rounds=4, clients=clients, server=server)[0].shared

    def apart(a, b):
        return float(sum((a[n] - b[n]).square().sum() for n in a)) ** 0.5

    honest = final("honest", {s: ToyClient(s) for s in sites})
    without = final("without", {s: ToyClient(s) for s in sites[:4]})
    attacked = final("attacked", {s: ToyClient(s) for s in sites[:4]} | {"E": Hostile("E", factor)})
    usual = max(apart(honest, without), 0.05)
    if rule == "mean":
        assert apart(attacked, without) > 3 * usual
    else:
        assert apart(attacked, without) < 2 * usual


def test_noise_keeps_scalars_at_the_site_and_logs_what_is_spent(tmp_path):
    pytest.importorskip("dp_accounting")
    halves, _ = run(tmp_path, "fedavg", privacy=NOISE)
    lines = log(tmp_path, "A")
    spent = [(e["epsilon_update"], e["epsilon_slice"]) for e in lines if e["event"] == "round"]
    assert len(spent) == ROUNDS
    for earlier, later in pairwise(spent):
        assert earlier[0] < later[0] and earlier[1] < later[1]
    assert not any("val_psnr_db" in e or "loss" in e or "best_val_psnr_db" in e for e in lines)
    assert halves.trainers["A"].best_psnr > 0


def test_the_noise_s_secret_is_the_site_s_own_and_never_travels(tmp_path, monkeypatch):
    pytest.importorskip("dp_accounting")
    from fedm2ct.federation import grid

    sent, original = [], grid.to_wire

    def recording(message, message_id):
        sent.append(original(message, message_id))
        return sent[-1]

    monkeypatch.setattr(grid, "to_wire", recording)
    noise = {**NOISE, "reproducible": False}
    halves, first = run(tmp_path / "first", "fedavg", privacy=noise)
    _, second = run(tmp_path / "second", "fedavg", privacy=noise)
    assert not tiny.same(first.shared, second.shared)
    secrets = [client.protection.secret for client in halves.clients.values()]
    assert len(set(secrets)) == 2
    for secret in secrets:
        assert len(secret) >= 16
        assert secret not in b"".join(sent)
        assert secret.hex().encode() not in b"".join(sent)


def test_a_missing_accountant_is_missed_before_training_and_only_where_there_is_noise(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(FedM2CTError, match=r"pip install 'fedm2ct\[privacy\]'"):
        protected("fedavg", privacy=NOISE)
    protected("fedavg", privacy={"update_clip": 1.0})
    setup = tiny.setup(privacy=NOISE)
    setup = replace(setup, tasks=[replace(t, train=t.train[0:0]) for t in setup.tasks])
    protect(METHODS["fedavg"](setup), setup)  # a coordinator: it has no slices


def test_noise_and_handing_slices_to_the_server_exclude_each_other():
    with pytest.raises(ConfigError, match="hands their slices to the server"):
        tiny.config(privacy=NOISE, meta={"source": "contributed"})


@pytest.mark.parametrize("kind", ["update", "slice"])
def test_noise_needs_a_length(kind):
    with pytest.raises(ConfigError, match=f"{kind}_noise is in units of {kind}_clip"):
        tiny.config(privacy={f"{kind}_noise": 1.0})
