"""Sites that are away, come late, or hang: the others go on, and nothing of theirs is lost."""

import json

import pytest

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.audit_check import check_unit
from fedm2ct.federation.method import Upload

from ..federation.grids import shape_grid
from ..federation.toy import ROUNDS, SITES, ToyClient, ToyServer, run_toy, same_state

AWAY = {
    "drops out for two rounds and comes back": {("B", 2), ("B", 3)},
    "joins late": {("C", 1), ("C", 2)},
    "leaves for good before the last round": {("A", 4)},
    "two take turns": {("A", 1), ("B", 2), ("A", 3)},
}


def plain_loop(away):
    """The same method without any engine: a site that is away forgets nothing."""
    server, clients = ToyServer(), {site: ToyClient(site) for site in SITES}
    shared = server.initial_shared()
    for round_index in range(1, ROUNDS + 1):
        uploads = []
        for site in SITES:
            if (site, round_index) in away:
                continue
            upload = clients[site].fit(round_index, {n: t.clone() for n, t in shared.items()})
            values = {name: value.clone() for name, value in upload.shared.items()}
            uploads.append(Upload(site, values, upload.samples))
        shared = server.aggregate(round_index, shared, uploads).shared
    return shared, clients


def keep_away(monkeypatch, away):
    shape_grid(monkeypatch, delivers=lambda site, round_index: (site, round_index) not in away)


def events_of(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


@pytest.mark.parametrize("story", AWAY)
def test_a_site_that_is_away(tmp_path, monkeypatch, story):
    away = AWAY[story]
    keep_away(monkeypatch, away)
    result, clients, _ = run_toy(tmp_path)
    shared, expected = plain_loop(away)
    assert same_state(result.shared, shared)
    for site in SITES:
        assert same_state(clients[site].private_state(), expected[site].private_state())
    failed = events_of(tmp_path, "failed")
    assert {(e["site"], e["round"]) for e in failed} == away
    assert all("no reply" in e["reason"] for e in failed)
    assert all(e["bytes_up"] == e["bytes_down"] == 0 for e in failed)
    assert check_unit(tmp_path).faults == ()


@pytest.mark.parametrize("stop_after", range(1, ROUNDS + 1))
@pytest.mark.parametrize("story", AWAY)
def test_a_run_with_an_absent_site_can_be_resumed_after_any_round(
    tmp_path, monkeypatch, story, stop_after
):
    def stop(event):
        if event["event"] == "checkpoint" and event["round"] == stop_after:
            raise KeyboardInterrupt

    away = AWAY[story]
    keep_away(monkeypatch, away)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, on_event=stop)
    result, clients, _ = run_toy(tmp_path, resume=True)
    assert result.resumed_from == stop_after
    shared, expected = plain_loop(away)
    assert same_state(result.shared, shared)
    for site in SITES:
        assert same_state(clients[site].private_state(), expected[site].private_state())


def test_a_private_state_that_is_known_to_have_been_there_is_missed(tmp_path, monkeypatch):
    keep_away(monkeypatch, {("B", 2), ("B", 3)})
    run_toy(tmp_path, rounds=3)
    for path in (tmp_path / "sites" / "B").glob("private-*.safetensors"):
        path.unlink()
    with pytest.raises(FedM2CTError, match=r"private-0001\.safetensors is missing"):
        run_toy(tmp_path, resume=True)


def test_a_site_that_hangs_is_left_out_and_its_late_reply_refused(tmp_path, monkeypatch):
    late = []

    def returns(site, round_index, reply):
        if (site, round_index) == ("B", 2):
            late.append(reply)  # it comes after the time allowed
            return []
        return [late.pop(), reply] if site == "B" and late else [reply]

    shape_grid(monkeypatch, returns=returns)
    result, clients, _ = run_toy(tmp_path)
    assert [(e["site"], e["round"]) for e in events_of(tmp_path, "failed")] == [("B", 2)]
    ((refused, reason),) = [
        ((e["site"], e["round"]), e["reason"]) for e in events_of(tmp_path, "dropped")
    ]
    assert refused == ("B", 3) and reason == "stale or replayed: it answers round 2, not 3"
    accepted = {(e["site"], e["round"]) for e in events_of(tmp_path, "round")}
    assert ("B", 3) in accepted and ("B", 2) not in accepted
    # Its own training of round 2 is not lost, although nobody has heard of it.
    _, expected = plain_loop(set())
    steps = {n: t for n, t in clients["B"].private_state().items() if n.endswith("step")}
    assert same_state(steps, {n: expected["B"].private_state()[n] for n in steps}) and steps
    assert result.shared


def test_a_site_that_hung_can_be_resumed(tmp_path, monkeypatch):
    def returns(site, round_index, reply):
        return [] if (site, round_index) == ("B", 2) else [reply]

    shape_grid(monkeypatch, returns=returns)
    whole, clients, _ = run_toy(tmp_path / "whole")
    run_toy(tmp_path / "part", rounds=2)
    resumed, again, _ = run_toy(tmp_path / "part", resume=True)
    assert resumed.resumed_from == 2
    assert same_state(resumed.shared, whole.shared)
    assert same_state(again["B"].private_state(), clients["B"].private_state())


def test_a_site_that_is_away_at_the_end_is_named(tmp_path, monkeypatch):
    from fedm2ct.federation import grid

    class Deaf(grid.LocalGrid):
        def push_messages(self, messages):
            return super().push_messages(
                message for message in messages if not self._is_lost(message.metadata)
            )

        def _is_lost(self, about):
            return about.message_type == "evaluate" and self.sites[about.dst_node_id] == "B"

    with monkeypatch.context() as patch:
        patch.setattr(grid, "LocalGrid", Deaf)
        with pytest.raises(FedM2CTError, match=r"final parameters \(B: no reply"):
            run_toy(tmp_path)
    assert run_toy(tmp_path, resume=True)[0].resumed_from == ROUNDS
