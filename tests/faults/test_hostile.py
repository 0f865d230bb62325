"""Hostile replies, as they arrive: refused with site, round and reason; all the rest goes on."""

import io
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.app.metadata import Metadata

from fedm2ct.federation.audit_check import check_unit
from fedm2ct.federation.records import arrays_from_state, state_from_arrays

from ..federation.grids import shape_grid
from ..federation.toy import ToyClient, ToyServer, run_toy, same_state

ROUND = 2
DOCS = Path(__file__).parents[2] / "docs"


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def changed(**tensors):
    """Replace tensors of the upload; None removes one."""

    def change(content):
        state = state_from_arrays(content["shared"]) | tensors
        content["shared"] = arrays_from_state({n: t for n, t in state.items() if t is not None})

    return change


def scaled(factor):
    def change(content):
        state = state_from_arrays(content["shared"])
        content["shared"] = arrays_from_state({n: factor * t for n, t in state.items()})

    return change


def raw(data, stype="numpy.ndarray", name="weight"):
    """Send bytes of one's own as an array."""

    def change(content):
        arrays = dict(content["shared"].items())
        content["shared"] = ArrayRecord({**arrays, name: Array("float32", (4, 4), stype, data)})

    return change


def about(**values):
    def change(content):
        content["about"] = ConfigRecord({**content["about"], **values})

    return change


def without(key):
    def change(content):
        content["about"] = ConfigRecord({k: v for k, v in content["about"].items() if k != key})

    return change


def metrics(**values):
    def change(content):
        content["metrics"] = MetricRecord(values)

    return change


def put(key, value):
    def change(content):
        content[key] = value

    return change


class Bomb:
    """Unpickling it would fail the test."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


HEADER_LIES = npy(np.zeros((4, 4), np.float32)).replace(
    b"(4, 4), }" + 12 * b" ", b"(4, 4000000000000), }"
)
NAN, INF = float("nan"), float("inf")
HOSTILE = {
    "NaN": (changed(weight=torch.full((4, 4), NAN)), "weight holds NaN"),
    "infinity": (changed(bias=torch.tensor([0.0, INF, 0.0, 0.0])), "bias holds NaN or infinity"),
    "a missing key": (changed(bias=None), "bias is missing"),
    "a further key": (changed(extra=torch.zeros(1)), "extra is not shared"),
    "a wrong shape": (changed(bias=torch.zeros(1)), r"shape \[1\], not \[4\]"),
    "a wrong dtype": (changed(bias=torch.zeros(4).double()), "bias is torch.float64"),
    "a dtype that no tensor has": (raw(npy(np.zeros(4, "U4"))), "weight cannot be decoded"),
    "a negative weight": (about(samples=-5), "samples is -5"),
    "no weight": (about(samples=0), "samples is 0"),
    "a huge weight": (about(samples=10**15), "samples is 1000000000000000"),
    "a weight that has grown": (about(samples=1600), "samples is 1600, yet it was 16"),
    "a weight that is no number": (about(samples="16"), "wrong kind"),
    "a million times the weights": (scaled(1e6), "times as long as is typical"),
    "the weights' signs flipped": (scaled(-30.0), "times as long as is typical"),
    "a stale round": (about(round=1), "stale or replayed: it answers round 1, not 2"),
    "a future round": (about(round=3), "stale or replayed"),
    "no round": (without("round"), "stale or replayed"),
    "another nonce": (about(nonce="0" * 32), "another message of this round"),
    "other parameters to start from": (about(sent="0" * 64), "other parameters than were sent"),
    "an oversized message": (
        changed(filling=torch.zeros(1 << 19)),
        r"the upload has 2\d{6} bytes, more than 1\d{6}",
    ),
    "an object array": (
        raw(npy(np.array([Bomb()], object), allow_pickle=True)),
        "weight is not what its header says",
    ),
    "a pickle": (raw(pickle.dumps(Bomb()), "pickle"), "weight cannot be decoded"),
    "an array said to be a pickle": (
        raw(npy(np.zeros((4, 4), np.float32)), "pickle"),
        "weight cannot be decoded",
    ),
    "a header that asks for more memory": (raw(HEADER_LIES), "not what its header says"),
    "bytes that are no array": (raw(b"\x93NUMPY\x01\x00\xff\xff{"), "cannot be decoded"),
    "the name of another site": (about(site="A"), "says that it is A's"),
    "the name of nobody": (
        about(site="Z\nround 9: site A dropped"),
        "says that it is Z\ufffdround",
    ),
    "a name with a line break": (
        changed(**{"x\nround 3: site A": torch.zeros(1)}),
        "x\ufffdround 3",
    ),
    "a name without an end": (changed(**{"x" * 100_000: torch.zeros(1)}), r"x{100,300}\.\.\.$"),
    "no arrays": (put("shared", MetricRecord()), "no shared parameters"),
    "no description": (put("about", MetricRecord()), "no description"),
    "no metrics": (put("metrics", ConfigRecord()), "holds no metrics"),
    "a thousand metrics": (metrics(**{f"m{k}": 1.0 for k in range(1000)}), "holds 1000 metrics"),
    "a metric with a line break": (metrics(**{"a\nb": 1.0}), "no plain name"),
    "a list as a metric": (metrics(loss=[1.0, 2.0]), "not a single number"),
}


@pytest.fixture(scope="module")
def without_it(tmp_path_factory):
    """A run in which B's reply of the round is lost: what a refusal should come to."""
    with pytest.MonkeyPatch.context() as patch:
        shape_grid(patch, returns=lambda s, r, reply: [] if (s, r) == ("B", ROUND) else [reply])
        result, clients, _ = run_toy(tmp_path_factory.mktemp("without"))
    return result, clients


def lines_of(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_refused(folder, caplog, reason):
    """Site, round and reason are in the log, in ``metrics.jsonl`` and in the audit log."""
    (line,) = [e for e in lines_of(folder) if e["event"] == "dropped"]
    assert (line["site"], line["round"]) == ("B", ROUND)
    assert re.search(reason, line["reason"]), line["reason"]
    (said,) = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    assert said == f"round {ROUND}: site B dropped: {line['reason']}"
    assert "\n" not in said and len(said) < 400
    (entry,) = [
        e for e in lines_of(folder, "audit.jsonl") if (e["event"], e["round"]) == ("round", ROUND)
    ]
    outcomes = {reply["site"]: reply for reply in entry["replies"]}
    assert [outcomes[s]["outcome"] for s in "ABC"] == ["accepted", "refused", "accepted"]
    assert outcomes["B"]["reason"] == line["reason"]
    assert check_unit(folder).faults == ()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_reply(tmp_path, monkeypatch, caplog, without_it, what):
    change, reason = HOSTILE[what]

    def returns(site, round_index, reply):
        if (site, round_index) == ("B", ROUND):
            change(reply.content)
        return [reply]

    shape_grid(monkeypatch, returns=returns)
    result, clients, _ = run_toy(tmp_path)
    assert_refused(tmp_path, caplog, reason)
    expected, expected_clients = without_it
    assert same_state(result.shared, expected.shared)
    for site, client in expected_clients.items():  # nothing private is lost, least of all B's
        assert same_state(clients[site].private_state(), client.private_state())
    uploads = [e["n_uploads"] for e in lines_of(tmp_path) if e["site"] == "server"]
    assert uploads == [3.0, 2.0, 3.0, 3.0]


def test_a_replayed_message(tmp_path, monkeypatch, caplog, without_it):
    """Yesterday's upload, whole and unchanged."""
    kept = []

    def returns(site, round_index, reply):
        if site == "B" and round_index == ROUND - 1:
            kept.append(reply)
        return [kept[0] if (site, round_index) == ("B", ROUND) else reply]

    shape_grid(monkeypatch, returns=returns)
    result, _, _ = run_toy(tmp_path)
    assert_refused(tmp_path, caplog, "stale or replayed: it answers round 1, not 2")
    assert same_state(result.shared, without_it[0].shared)


def test_a_message_replayed_from_another_run_of_the_same_seed(tmp_path, monkeypatch, caplog):
    """Same round, same parameters: only the nonce tells."""
    kept = {}

    def keep(site, round_index, reply):
        kept[site, round_index] = reply
        return [reply]

    with monkeypatch.context() as patch:
        shape_grid(patch, returns=keep)
        run_toy(tmp_path / "first")
    shape_grid(
        monkeypatch,
        returns=lambda s, r, reply: [kept[s, r] if (s, r) == ("B", ROUND) else reply],
    )
    run_toy(tmp_path / "second")
    assert_refused(tmp_path / "second", caplog, "another message of this round")


def test_a_second_reply_of_the_same_node(tmp_path, monkeypatch, caplog):
    shape_grid(
        monkeypatch,
        returns=lambda s, r, reply: [reply, reply] if (s, r) == ("B", ROUND) else [reply],
    )
    result, _, _ = run_toy(tmp_path / "run")
    assert "site B dropped: a second upload under the same site name" in caplog.text
    monkeypatch.undo()
    assert same_state(result.shared, run_toy(tmp_path / "usual")[0].shared)


def test_a_reply_of_a_node_that_is_no_site(tmp_path, monkeypatch, caplog):
    def returns(site, round_index, reply):
        if (site, round_index) == ("B", ROUND):
            about = reply.metadata
            assert isinstance(about, Metadata)
            about.__dict__["_src_node_id"] = 999
        return [reply]

    shape_grid(monkeypatch, returns=returns)
    run_toy(tmp_path)
    assert "round 2: site node 999 dropped: is no site that was asked" in caplog.text
    assert "round 2: site B failed: no reply" in caplog.text


def test_an_error_with_a_text_of_its_own(tmp_path, monkeypatch, caplog):
    from flwr.app import Error, Message

    def returns(site, round_index, reply):
        if (site, round_index) != ("B", ROUND):
            return [reply]
        answer = Message(Error(0, "x\nround 3: site A dropped: NaN" + "y" * 10**6), reply_to=reply)
        answer.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
        return [answer]

    shape_grid(monkeypatch, returns=returns)
    run_toy(tmp_path)
    (said,) = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert said.startswith("round 2: site B failed: x\ufffdround 3") and len(said) < 400


@pytest.mark.parametrize("sites", [1, 2, 5])
@pytest.mark.parametrize("hostile", ["some", "most"])
def test_a_huge_update_is_refused_whoever_is_in_the_majority(tmp_path, monkeypatch, sites, hostile):
    names = "ABCDE"[:sites]
    evil = names[-1] if hostile == "some" or sites == 1 else names[1:]
    rounds = range(1, 2) if sites > 1 else range(2, 3)

    def returns(site, round_index, reply):
        if site in evil and round_index in rounds:
            scaled(1e6)(reply.content)
        return [reply]

    shape_grid(monkeypatch, returns=returns)
    try:
        run_toy(tmp_path, clients={name: ToyClient(name) for name in names})
    except Exception as error:
        assert sites == 1 and "no site's upload could be used" in str(error)
        return
    dropped = {e["site"] for e in lines_of(tmp_path) if e["event"] == "dropped"}
    assert dropped == set(evil)


class Alike(ToyClient):
    """Sites whose patients are alike, so that they agree on where to go."""

    def __init__(self, name):
        super().__init__("A")
        self.site = name


def flip(monkeypatch, evil, start):
    """Send the update of a round with its sign turned round."""

    def returns(site, round_index, reply):
        if site == evil and round_index == 1:
            state = state_from_arrays(reply.content["shared"])
            turned = {n: 2 * start[n] - t for n, t in state.items()}
            reply.content["shared"] = arrays_from_state(turned)
        return [reply]

    shape_grid(monkeypatch, returns=returns)


@pytest.mark.parametrize("evil", "ADE")
def test_a_flipped_update_is_refused_where_the_others_agree(tmp_path, monkeypatch, caplog, evil):
    flip(monkeypatch, evil, ToyServer().initial_shared())
    run_toy(tmp_path, rounds=2, clients={name: Alike(name) for name in "ABCDE"})
    (line,) = [e for e in lines_of(tmp_path) if e["event"] == "dropped"]
    assert (line["site"], line["round"]) == (evil, 1)
    assert "points away from the others' (cosine -" in line["reason"]
    assert f"round 1: site {evil} dropped: its update points away" in caplog.text


def test_among_four_sites_a_flipped_update_is_not_noticed(tmp_path, monkeypatch):
    """The limit that docs/security.md states: three others outvote nobody."""
    flip(monkeypatch, "D", ToyServer().initial_shared())
    run_toy(tmp_path, rounds=1, clients={name: Alike(name) for name in "ABCD"})
    assert not [e for e in lines_of(tmp_path) if e["event"] == "dropped"]
    assert "up to four sites" in (DOCS / "security.md").read_text()
