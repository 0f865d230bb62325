"""FedProx: the proximal term holds the image network, and nothing else."""

import pytest

from fedm2ct.federation.methods import fedper, fedprox
from tests import tiny

from .gradients import close, watch_steps

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def upload(build, mu=0.0):
    halves = build(tiny.setup(method={"fedprox": {"mu": mu}}, training={"local_steps": 5}))
    start = halves.server.initial_shared()
    sent = halves.clients["A"].fit(1, start).shared
    distance = sum(float((sent[n] - start[n]).square().sum()) for n in start) ** 0.5
    return sent, distance, halves.trainers["A"].model


def test_without_the_term_it_is_fedper():
    assert tiny.same(upload(fedprox.build)[0], upload(fedper.build)[0])


def test_the_stronger_the_term_the_nearer_to_the_download():
    distances = [upload(fedprox.build, mu)[1] for mu in (0.0, 10.0, 1000.0)]
    assert distances[0] > distances[1] > distances[2] > 0


def test_the_first_gradient_is_the_loss_s_own():
    """At w = w^t the term's gradient is zero: the first step is FedPer's."""
    first = {"training": {"local_steps": 1}}
    sent = []
    for build in (fedper.build, fedprox.build):
        halves = build(tiny.setup(method={"fedprox": {"mu": 1000.0}}, **first))
        sent.append(halves.clients["A"].fit(1, halves.server.initial_shared()).shared)
    assert tiny.same(*sent)


def test_each_gradient_holds_the_term(monkeypatch):
    """What the optimiser is given is grad F_k + mu (w - w^t) on the image network only."""
    halves = fedprox.build(tiny.setup(method={"fedprox": {"mu": 7.0}}))
    start = halves.server.initial_shared()
    steps = watch_steps(monkeypatch, halves.trainers["A"])
    halves.clients["A"].fit(1, start)
    assert len(steps) == 2
    for step in steps:
        for name, given in step.given.items():
            term = 7.0 * (step.parameters[name] - start[name]) if name in start else 0.0
            assert close(given, step.own[name] + term)
    assert step.own.keys() > start.keys()
