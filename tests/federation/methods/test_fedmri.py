"""FedMRI: the encoder travels, the decoder stays, the contrast is with the two encoders it says."""

import pytest

from fedm2ct.federation.methods import fedmri, fedper
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def build(mu=0.1, **training):
    return fedmri.build(tiny.setup(method={"fedmri": {"mu": mu}}, training=training))


def distance(a, b):
    return sum(float((a[n] - b[n]).abs().sum()) for n in a)


def test_the_encoder_travels_and_the_decoder_stays():
    halves = build()
    start = halves.server.initial_shared()
    assert {n.split(".")[2] for n in start} == {"first", "down", "encode"}
    client = halves.clients["A"]
    sent = client.fit(1, start).shared
    assert sent.keys() == start.keys()
    kept = {n for n in client.private_state() if n.startswith("model.shared.")}
    assert {n.split(".")[3] for n in kept} == {"up", "decode", "last"}


def test_the_first_round_has_no_contrast():
    first, again = build(mu=0.0), build(mu=100.0)
    start = first.server.initial_shared()
    assert tiny.same(
        first.clients["A"].fit(1, start).shared, again.clients["A"].fit(1, start).shared
    )


def test_later_rounds_stay_nearer_to_the_download_the_stronger_the_term():
    away = []
    for mu in (0.0, 1e6):
        halves = build(mu, local_steps=6)
        client, start = halves.clients["A"], halves.server.initial_shared()
        own = client.fit(1, start).shared
        moved = {n: t + 0.05 for n, t in own.items()}
        away.append(distance(client.fit(2, moved).shared, moved))
    assert away[1] < 0.8 * away[0]


def test_what_it_is_contrasted_with(monkeypatch):
    halves, seen = build(mu=0.3), []
    original = fedmri.weighted_contrast

    def watching(parameters, towards, away, strength):
        seen.append((set(parameters), towards, away, strength))
        return original(parameters, towards, away, strength)

    monkeypatch.setattr(fedmri, "weighted_contrast", watching)
    client, start = halves.clients["A"], halves.server.initial_shared()
    first = client.fit(1, start).shared
    moved = {n: t + 0.01 for n, t in first.items()}
    second = client.fit(2, moved).shared
    ((names, towards, away, strength),) = seen
    assert names == set(start) and strength == 0.3
    assert tiny.same(towards, moved) and tiny.same(away, first)
    kept = client.private_state()
    assert tiny.same({n: kept[f"memory.{n}"] for n in second}, second)


def test_it_sends_less_than_the_whole_network():
    assert (
        build().server.initial_shared().keys()
        < fedper.build(tiny.setup()).server.initial_shared().keys()
    )
