"""FedDyn: two rounds of the server by hand, the site's state, and its fixed point on quadratics."""

import pytest
import torch
from torch import nn

from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import feddyn
from fedm2ct.federation.methods.feddyn import DynamicServer
from fedm2ct.learning.drift import linear, proximal, together
from tests import tiny

from .gradients import close, watch_steps

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def upload(site, value, samples=1):
    return Upload(site, {"w": torch.tensor([value])}, samples)


def test_two_rounds_of_the_server_by_hand():
    """alpha 0.5, four sites of which two take part.

    h1 = -0.5/4 (2 + 6) = -1, w1 = 14 + 2 = 16; h2 = -1 - 0.5/4 (-4 + 0) = -0.5, w2 = 14 + 1 = 15.
    """
    server = DynamicServer({"w": torch.tensor([10.0])}, sites=4, alpha=0.5)
    first = server.aggregate(1, {"w": torch.tensor([10.0])}, [upload("A", 12.0), upload("B", 16.0)])
    assert first.shared["w"].tolist() == [16.0]
    assert server.state()["w"].tolist() == [-1.0]
    second = server.aggregate(2, first.shared, [upload("A", 12.0, 9), upload("B", 16.0)])
    assert second.shared["w"].tolist() == [15.0]


def test_the_server_s_state_comes_back():
    one, two = (DynamicServer({"w": torch.zeros(1)}, 2, 0.1) for _ in range(2))
    one.aggregate(1, {"w": torch.zeros(1)}, [upload("A", 3.0)])
    two.load_state(one.state())
    assert tiny.same(one.state(), two.state())
    ends = [s.aggregate(2, {"w": torch.zeros(1)}, [upload("A", 3.0)]).shared for s in (one, two)]
    assert tiny.same(*ends)


def test_a_site_s_state_is_what_it_was_held_by():
    halves = feddyn.build(tiny.setup(method={"feddyn": {"alpha": 0.5}}))
    client, start = halves.clients["A"], halves.server.initial_shared()
    expected = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for round_index in (1, 2):
        sent = client.fit(round_index, start).shared
        expected = {n: g - 0.5 * (sent[n] - start[n]) for n, g in expected.items()}
        assert tiny.same(client.memory, expected)
    assert any(float(g.abs().max()) > 0 for g in expected.values())


def test_each_gradient_holds_both_terms(monkeypatch):
    """grad L_k - g_k + alpha (w - w^t) on the image network, grad L_k elsewhere."""
    halves = feddyn.build(tiny.setup(method={"feddyn": {"alpha": 5.0}}))
    client, start = halves.clients["A"], halves.server.initial_shared()
    source = torch.Generator().manual_seed(8)
    own = {n: torch.randn(t.shape, generator=source) for n, t in start.items()}
    client.memory = dict(own)
    steps = watch_steps(monkeypatch, halves.trainers["A"])
    client.fit(1, start)
    assert len(steps) == 2
    for step in steps:
        for name, given in step.given.items():
            term = 0.0
            if name in start:
                term = 5.0 * (step.parameters[name] - start[name]) - own[name]
            assert close(given, step.own[name] + term)


def test_sites_with_unlike_losses_agree_where_their_sum_is_least():
    """L_k = a_k / 2 (w - b_k)^2, solved exactly: FedAvg's fixed point would be another."""
    curvature, optimum, alpha = (1.0, 9.0), (0.0, 1.0), 1.0
    best = sum(a * b for a, b in zip(curvature, optimum, strict=True)) / sum(curvature)
    server = DynamicServer({"w": torch.zeros(1)}, 2, alpha)
    shared, own = {"w": torch.zeros(1)}, [torch.zeros(1), torch.zeros(1)]
    for round_index in range(1, 200):
        uploads = []
        for k, (a, b) in enumerate(zip(curvature, optimum, strict=True)):
            solved = (a * b + own[k] + alpha * shared["w"]) / (a + alpha)
            w = nn.Parameter(solved.clone())
            w.grad = a * (w.detach() - b)
            parameters = {"w": w}
            together(linear(parameters, {"w": -own[k]}), proximal(parameters, shared, alpha))(0)
            assert abs(float(w.grad)) < 1e-5  # the terms are those of the objective just solved
            own[k] = own[k] - alpha * (solved - shared["w"])
            uploads.append(Upload("AB"[k], {"w": solved}, 1))
        shared = server.aggregate(round_index, shared, uploads).shared
    assert float(shared["w"]) == pytest.approx(best, abs=1e-4)
