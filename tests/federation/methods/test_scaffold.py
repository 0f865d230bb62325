"""SCAFFOLD: the server by hand, option II under SGD, what the correction does, resuming."""

import pytest
import torch

from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import fedper, scaffold
from fedm2ct.federation.methods.scaffold import ControllingServer
from fedm2ct.federation.methods.site_client import parameters_of
from fedm2ct.learning.trainer import part_of
from tests import tiny

from .gradients import close, watch_steps

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def upload(site, y, change, samples=1):
    tensors = {"shared.w": torch.tensor([y]), "control.shared.w": torch.tensor([change])}
    return Upload(site, tensors, samples)


@pytest.mark.parametrize(("rate", "x"), [(1.0, 14.0), (0.5, 12.0)])
def test_the_server_by_hand(rate, x):
    """Two of four sites: x moves by their mean whatever their slices, c by a quarter of the sum."""
    server = ControllingServer({"shared.w": torch.tensor([10.0])}, sites=4, global_rate=rate)
    start = server.initial_shared()
    assert start["control.shared.w"].tolist() == [0.0]
    start["control.shared.w"] = torch.tensor([1.0])
    fused = server.aggregate(2, start, [upload("A", 12.0, 6.0), upload("B", 16.0, 2.0, 99)]).shared
    assert {n: t.tolist() for n, t in fused.items()} == {
        "shared.w": [x],
        "control.shared.w": [3.0],
    }


def test_an_upload_of_controls_is_measured_from_zero():
    server = ControllingServer({"shared.w": torch.tensor([10.0])}, 2, 1.0)
    now = {"shared.w": torch.tensor([9.0]), "control.shared.w": torch.tensor([5.0])}
    like = server.upload_like(now)
    assert like["shared.w"].tolist() == [9.0] and like["control.shared.w"].tolist() == [0.0]


def with_sgd(trainer, rate):
    """Replace a trainer's Adam by plain SGD."""
    groups = [{"params": list(trainer.model.parameters()), "base": rate}]
    trainer.optimiser = torch.optim.SGD(groups, lr=rate)


def test_the_new_control_is_the_paper_s_option_two_under_sgd():
    rate, steps = 0.01, 5
    flat = {"local_steps": steps, "final_rate": 1.0}
    halves = scaffold.build(tiny.setup(training=flat))
    client, trainer = halves.clients["A"], halves.trainers["A"]
    with_sgd(trainer, rate)
    x = halves.server.initial_shared()
    source = torch.Generator().manual_seed(1)
    for name in part_of(x, "control."):  # as in a later round: both controls differ from zero
        x[f"control.{name}"] = 0.1 * torch.randn(x[name].shape, generator=source)
        client.memory[name] = 0.1 * torch.randn(x[name].shape, generator=source)
    before = dict(client.memory)
    sent = client.fit(1, x).shared
    for name, y in parameters_of(sent).items():
        expected = before[name] - x[f"control.{name}"] + (x[name] - y) / (steps * rate)
        assert torch.allclose(client.memory[name], expected, atol=2e-4), name
        change = client.memory[name] - before[name]
        assert torch.equal(sent[f"control.{name}"], change)


def test_each_gradient_is_corrected_by_the_difference_of_controls(monkeypatch):
    halves = scaffold.build(tiny.setup())
    client, x = halves.clients["A"], halves.server.initial_shared()
    source = torch.Generator().manual_seed(2)
    for name in part_of(x, "control."):
        x[f"control.{name}"] = torch.randn(x[name].shape, generator=source)
        client.memory[name] = torch.randn(x[name].shape, generator=source)
    before = dict(client.memory)
    steps = watch_steps(monkeypatch, halves.trainers["A"])
    client.fit(1, x)
    for step in steps:
        for name, given in step.given.items():
            term = x[f"control.{name}"] - before[name] if name in before else 0.0
            assert close(given, step.own[name] + term)
    for name, control in client.memory.items():
        assert close(control, sum(step.own[name] for step in steps) / len(steps))


def test_the_first_round_is_fedper_s():
    """All controls are zero, so nothing is corrected."""
    sent = []
    for build in (fedper.build, scaffold.build):
        halves = build(tiny.setup())
        sent.append(
            parameters_of(halves.clients["A"].fit(1, halves.server.initial_shared()).shared)
        )
    assert tiny.same(*sent)


def test_equal_controls_correct_nothing_and_others_do():
    def moved(own):
        halves = scaffold.build(tiny.setup())
        client, x = halves.clients["A"], halves.server.initial_shared()
        for name in part_of(x, "control."):
            x[f"control.{name}"] = torch.full_like(x[name], 0.5)
            client.memory[name] = torch.full_like(x[name], own)
        return parameters_of(client.fit(1, x).shared)

    plain = scaffold.build(tiny.setup())
    expected = plain.clients["A"].fit(1, plain.server.initial_shared()).shared
    assert tiny.same(moved(0.5), parameters_of(expected))
    assert not tiny.same(moved(0.0), parameters_of(expected))


def test_the_control_is_kept_at_the_site_and_comes_back():
    halves, again = scaffold.build(tiny.setup()), scaffold.build(tiny.setup())
    client = halves.clients["A"]
    fresh = client.private_state()
    client.fit(1, halves.server.initial_shared())
    kept = client.private_state()
    controls = {n for n in kept if n.startswith("memory.")}
    assert controls == {n for n in fresh if n.startswith("memory.")}
    assert all(float(fresh[n].abs().max()) == 0 for n in controls)
    assert sum(float(kept[n].abs().sum()) for n in controls) > 0
    again.clients["A"].load_private_state(kept)
    assert tiny.same(again.clients["A"].memory, client.memory)
