import json
import struct
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import fedm2ct.federation
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.method import Upload
from fedm2ct.federation.outliers import TrackRecord
from fedm2ct.federation.resume import RunExistsError
from fedm2ct.federation.site import Site

from .toy import (
    CANARY,
    ROUNDS,
    SITES,
    LocalOnlyClient,
    LocalOnlyServer,
    ToyClient,
    ToyServer,
    run_toy,
    same_state,
    toy_clients,
)


def plain_loop(rounds):
    """The same method, without any engine: what the engine must compute."""
    server, clients = ToyServer(), {site: ToyClient(site) for site in SITES}
    shared = server.initial_shared()
    for round_index in range(1, rounds + 1):
        uploads = []
        for site in SITES:
            sent = {name: value.clone() for name, value in shared.items()}
            upload = clients[site].fit(round_index, sent)
            values = {name: value.clone() for name, value in upload.shared.items()}
            uploads.append(Upload(site, values, upload.samples))
        shared = server.aggregate(round_index, shared, uploads).shared
    return shared, clients


def test_engine_computes_what_a_plain_loop_computes(tmp_path):
    result, clients, _ = run_toy(tmp_path)
    shared, expected = plain_loop(ROUNDS)
    assert same_state(result.shared, shared)
    for site in SITES:
        assert same_state(clients[site].private_state(), expected[site].private_state())


def test_final_parameters_reach_every_site(tmp_path):
    result, clients, _ = run_toy(tmp_path)
    assert all(same_state(clients[site].finished, result.shared) for site in SITES)
    total = float(sum(v.double().sum() for v in result.shared.values()))
    assert result.final_metrics == {site: {"final": total} for site in SITES}
    assert result.resumed_from is None


def test_log_holds_metrics_and_bytes_of_every_round_and_site(tmp_path):
    _, _, events = run_toy(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rounds = [(e["round"], e["site"]) for e in lines if e["event"] == "round"]
    assert rounds == [(r, s) for r in range(1, ROUNDS + 1) for s in [*SITES, "server"]]
    first, server = lines[0], lines[3]
    assert first["loss"] > 0 and first["samples"] == 16 and first["seconds"] >= 0
    payload = 20 * 4  # sixteen weights and four biases in float32
    assert payload < first["bytes_up"] < payload + 1500
    assert payload < first["bytes_down"] < payload + 1500
    assert server["bytes_up"] == sum(line["bytes_up"] for line in lines[:3])
    assert server["n_uploads"] == 3.0
    assert [e["site"] for e in lines if e["event"] == "finish"] == list(SITES)
    assert [e for e in events if e["event"] in ("round", "finish")] == lines
    assert [e["round"] for e in events if e["event"] == "checkpoint"] == [1, 2, 3, 4]
    assert [e["site"] for e in events if e["event"] == "site"] == list(SITES) * (ROUNDS + 1)


def test_bytes_are_those_of_the_serialised_messages(tmp_path, monkeypatch):
    sent = record_wire(monkeypatch)
    run_toy(tmp_path, rounds=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counted = [n for e in lines if e["site"] != "server" for n in (e["bytes_down"], e["bytes_up"])]
    assert counted == [len(wire) for wire in sent]


def record_wire(monkeypatch):
    from fedm2ct.federation import grid

    sent: list[bytes] = []
    original = grid.to_wire

    def recording(message, message_id):
        sent.append(original(message, message_id))
        return sent[-1]

    monkeypatch.setattr(grid, "to_wire", recording)
    return sent


class Gossip(ToyClient):
    """Fails while quoting private values."""

    def fit(self, round_index, shared):
        super().fit(round_index, shared)
        raise RuntimeError(f"diverged at {float(self.canary[0])!r}")


def test_private_values_are_in_no_message(tmp_path, monkeypatch):
    sent = record_wire(monkeypatch)
    run_toy(tmp_path, clients=toy_clients(B=Gossip("B")))
    assert len(sent) == 2 * len(SITES) * (ROUNDS + 1)
    everything = b"".join(sent)
    assert struct.pack("<f", float(torch.zeros(1))) in everything  # the biases at the start
    for needle in (struct.pack("<d", CANARY), struct.pack("<f", CANARY), repr(CANARY).encode()):
        assert needle not in everything
    stored = (tmp_path / "sites" / "A" / "private-0004.safetensors").read_bytes()
    assert struct.pack("<d", CANARY) in stored
    assert repr(CANARY) in (tmp_path / "sites" / "B" / "errors.log").read_text()


def test_client_app_itself_says_no_more_than_the_kind_of_an_error(tmp_path):
    """Flower's own nodes would send the text of an exception that leaves the app."""
    from flwr.app import Context, Message, RecordDict

    from fedm2ct.federation.client_app import make_client_app
    from fedm2ct.federation.grid import LocalGrid
    from fedm2ct.federation.records import arrays_from_state, download

    site = Site("B", Gossip("B"), tmp_path, RunIdentity("config", 1))
    site.begin()
    app = make_client_app(lambda _: site)
    LocalGrid(app, ["B"])
    content = download(arrays_from_state(ToyServer().initial_shared()), 1, "nonce", 0)
    reply = app(Message(content, 2, "train"), Context(1, 2, {}, RecordDict(), {}))
    assert reply.error.reason == "RuntimeError (see errors.log in the site's folder)"


def test_method_that_shares_nothing(tmp_path):
    clients = {site: LocalOnlyClient(site) for site in SITES}
    result, _, _ = run_toy(tmp_path, clients=clients, server=LocalOnlyServer())
    assert result.shared == {}
    again = {site: LocalOnlyClient(site) for site in SITES}
    resumed, _, _ = run_toy(tmp_path, clients=again, server=LocalOnlyServer(), resume=True)
    assert resumed.resumed_from == ROUNDS
    assert same_state(clients["A"].private_state(), again["A"].private_state())


def test_last_two_rounds_are_kept(tmp_path):
    run_toy(tmp_path)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["round-0003.safetensors", "round-0004.safetensors"]
    private = sorted(p.name for p in (tmp_path / "sites" / "A").iterdir())
    assert private == ["private-0003.safetensors", "private-0004.safetensors"]


def test_used_folder_is_refused_without_resume(tmp_path):
    run_toy(tmp_path, rounds=1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunExistsError, match=r"holds a run already: resume it \(--resume\)"):
        run_toy(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_resume_in_an_empty_folder_begins(tmp_path):
    result, _, _ = run_toy(tmp_path / "new", resume=True)
    assert result.resumed_from is None
    assert same_state(result.shared, plain_loop(ROUNDS)[0])


@pytest.mark.parametrize("name", ["../A", "server", "", "a/b", ".."])
def test_site_names_must_name_a_folder(tmp_path, name):
    with pytest.raises(FedM2CTError, match="cannot name a folder"):
        run_toy(tmp_path, clients={name: ToyClient("A")})


@pytest.mark.parametrize(("rounds", "clients"), [(0, None), (1, {})])
def test_senseless_arguments_are_refused(tmp_path, rounds, clients):
    with pytest.raises(FedM2CTError, match="at least one"):
        run_toy(tmp_path, rounds=rounds, clients=clients)
    assert list(tmp_path.iterdir()) == []


def test_flower_does_not_flood_the_console(tmp_path, capfd):
    run_toy(tmp_path, rounds=1)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert "[ROUND 1/1]" in (tmp_path / "flower.log").read_text()


def test_flower_is_the_version_that_was_meant():
    assert version("flwr") == "1.41.0"


def test_semi_private_names_of_flower_are_imported_in_one_place():
    folder = Path(fedm2ct.federation.__file__).parent
    users = {p.name for p in folder.rglob("*.py") if "TaskIdentity" in p.read_text()}
    assert users == {"grid.py"}
    importers = {
        p.name
        for p in folder.parents[0].rglob("*.py")
        if any(line.startswith(("import flwr", "from flwr")) for line in p.read_text().splitlines())
    }
    assert importers == {
        "client_app.py",
        "control.py",
        "grid.py",
        "packing.py",
        "records.py",
        "remote_grid.py",
        "server_app.py",
        "simulation.py",
        "strategy.py",
        "task_worker.py",
    }


def test_importing_is_cheap_and_telemetry_is_off():
    code = """
import os, sys
import fedm2ct, fedm2ct.federation.run
assert not any(name == "flwr" or name.startswith("flwr.") for name in sys.modules)
import fedm2ct.federation.grid
from flwr.supercore import telemetry
from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK
assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
assert os.environ[FLWR_DISABLE_UPDATE_CHECK] == "1"
"""
    source = str(Path(fedm2ct.federation.__file__).parents[2])
    env = {"PYTHONPATH": source, "PATH": "/usr/bin:/bin", "FLWR_TELEMETRY_ENABLED": "1"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)


def test_a_checkpoint_that_does_not_say_what_counted_has_sites_take_nothing_back(
    tmp_path, monkeypatch
):
    class Listening(ToyClient):
        def heard(self, counted):
            told.append((self.site, counted))

    def clients():
        return {site: Listening(site) for site in SITES}

    told, as_json = [], TrackRecord.as_json
    with monkeypatch.context() as earlier:  # a version that kept no account of it
        earlier.setattr(TrackRecord, "as_json", lambda r: {**as_json(r), "counted": {}})
        run_toy(tmp_path, rounds=1, clients=clients())
    told.clear()
    run_toy(tmp_path, rounds=3, resume=True, clients=clients())
    assert sorted(told) == [(site, 2) for site in SITES]
