"""A round across a network is accounted for site by site, whoever is missing."""

import json

import pytest

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.grid import LocalGrid
from fedm2ct.federation.packing import packing
from fedm2ct.federation.remote_grid import Patience, RemoteGrid
from fedm2ct.federation.remote_site import RemoteSite
from fedm2ct.federation.run import run_method

from .toy import CONFIG, SEED, SITES, ToyClient, ToyServer, run_toy, same_state

QUICK = Patience(round_s=0.3, begin_s=0.0, return_s=0.0)


class Network(LocalGrid):
    """Sites in this process that may be away, or hang: by round, the names of those."""

    def __init__(self, folder, away=None, hang=None):
        identity = RunIdentity(CONFIG, SEED)
        self.hosts = {n: RemoteSite(n, ToyClient(n), folder / "sites" / n, identity) for n in SITES}
        app = make_client_app(
            lambda context: self.hosts[str(context.node_config["site"])], [packing]
        )
        super().__init__(app, SITES)
        self.away, self.hang = away or {}, hang or {}
        self.round, self.held = 1, {}

    def get_node_ids(self):
        gone = self.away.get(self.round, ())
        return [node for node, name in self.sites.items() if name not in gone]

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message, message_id in zip(messages, ids, strict=True):
            assert message.metadata.dst_node_id in self.get_node_ids(), "sent to a site that is off"
            if self.sites[message.metadata.dst_node_id] in self.hang.get(self.round, ()):
                self.held[message_id] = self._replies.pop(message_id)
        return ids

    def next_round(self, event):
        if event["event"] == "checkpoint":
            self.round = event["round"] + 1
            if self.round not in self.hang:  # what hung answers now, too late
                self._replies |= self.held
                self.held = {}


def federated(folder, network, patience=QUICK, rounds=4, **options):
    grid = RemoteGrid(network, network.sites, patience)
    grid.await_sites()
    run_method(
        ToyServer(),
        {},
        rounds,
        folder / "run",
        resume=False,
        seed=SEED,
        fingerprint=CONFIG,
        grid=grid,
        on_event=network.next_round,
        **options,
    )
    return events(folder / "run")


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def of_kind(lines, kind):
    return {(e["round"], e["site"]): e.get("reason") for e in lines if e["event"] == kind}


def test_over_a_network_the_same_bits_come_out_as_in_one_process(tmp_path):
    whole, clients, _ = run_toy(tmp_path / "whole")
    network = Network(tmp_path)
    lines = federated(tmp_path, network)
    assert not of_kind(lines, "failed")
    for name in SITES:
        client = network.hosts[name]._client
        assert same_state(client.private_state(), clients[name].private_state())
        assert same_state(client.finished, whole.shared)
    for ours, theirs in zip(lines, events(tmp_path / "whole"), strict=True):
        assert (ours["event"], ours["round"]) == (theirs["event"], theirs["round"])
        sites = 3 if ours["site"] == "server" else 1
        for way in ("bytes_up", "bytes_down"):
            assert 0 < ours[way] - theirs[way] < 350 * sites  # the package


def test_a_site_that_drops_out_for_two_rounds_comes_back(tmp_path):
    lines = federated(tmp_path, Network(tmp_path, away={2: ("B",), 3: ("B",)}))
    reason = "not connected"
    assert of_kind(lines, "failed") == {(2, "B"): reason, (3, "B"): reason}
    assert (4, "B") in of_kind(lines, "round")
    assert {(2, "A"), (2, "C"), (3, "A"), (3, "C")} <= of_kind(lines, "round").keys()


def test_a_site_that_joins_late_takes_part_from_then_on(tmp_path):
    network = Network(tmp_path, away={1: ("C",), 2: ("C",)})
    lines = federated(tmp_path, network)
    assert {r for r, s in of_kind(lines, "round") if s == "C"} == {3, 4}


def test_a_site_that_hangs_costs_one_wait_and_its_late_answer_is_dropped(tmp_path):
    lines = federated(tmp_path, Network(tmp_path, hang={2: ("A",), 3: ("A",)}))
    failed = of_kind(lines, "failed")
    assert failed[2, "A"] == "no answer within 0 s"
    assert failed[3, "A"] == "busy with an earlier round"  # sent nothing, so not waited for again
    assert (4, "A") in of_kind(lines, "round")


def test_too_few_sites_are_no_start(tmp_path):
    network = Network(tmp_path, away={1: ("A", "B")})
    patience = Patience(round_s=1, begin_s=0.0, return_s=0.0, minimum_sites=2)
    with pytest.raises(FedM2CTError, match="1 of 3 sites are connected"):
        federated(tmp_path, network, patience)


def test_a_site_that_will_be_back_is_waited_for(tmp_path):
    class Returning(Network):
        looks = 0

        def get_node_ids(self):
            self.looks += self.round == 2
            self.away = {2: ("B",)} if self.looks < 3 else {}
            return super().get_node_ids()

    told = []
    network = Returning(tmp_path)
    grid = RemoteGrid(network, network.sites, Patience(5, 0.0, 5.0), warn=told.append)
    grid.await_sites()
    run_method(
        ToyServer(),
        {},
        2,
        tmp_path / "run",
        resume=False,
        seed=SEED,
        fingerprint=CONFIG,
        grid=grid,
        on_event=network.next_round,
    )
    assert not of_kind(events(tmp_path / "run"), "failed")
    assert told == ["waiting up to 5 s for B"]
