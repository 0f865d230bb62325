"""HyperFed: the hypernetwork stays, the imaging network travels and is averaged plainly."""

import pytest
import torch

from fedm2ct.federation.methods import fedper, hyperfed
from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.model.prompt import hyperfed_condition
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_the_hypernetwork_stays_at_the_site():
    halves = hyperfed.build(tiny.setup())
    start = halves.server.initial_shared()
    assert start and not any("prompt" in name for name in start)
    plain = fedper.build(tiny.setup()).server.initial_shared()
    assert len(start) == len(plain)
    sent = halves.clients["A"].fit(1, start).shared
    assert sent.keys() == start.keys()
    kept = halves.clients["A"].private_state()
    assert "model.shared.body.prompt.layers.2.weight" in kept
    assert isinstance(halves.server, MeanServer)


def test_each_site_s_hypernetwork_is_told_its_protocol_and_learns():
    halves = hyperfed.build(tiny.setup())
    a, b = (halves.trainers[name].model for name in ("A", "B"))
    for name, model in (("A", a), ("B", b)):
        assert torch.equal(model.condition, hyperfed_condition(tiny.PROTOCOLS[name]))
    before = a.shared.body.prompt.layers[2].weight.detach().clone()
    assert float(before.abs().max()) == 0  # it starts by changing nothing
    shared = halves.server.initial_shared()
    for round_index in (1, 2):
        uploads = [halves.clients[name].fit(round_index, shared) for name in ("A", "B")]
        shared = halves.server.aggregate(round_index, shared, uploads).shared
    after = [m.shared.body.prompt.layers[2].weight.detach() for m in (a, b)]
    assert float(after[0].abs().max()) > 0 and not torch.equal(*after)


def test_the_end_leaves_the_hypernetwork_alone():
    halves = hyperfed.build(tiny.setup())
    client, model = halves.clients["A"], halves.trainers["A"].model
    shared = halves.server.initial_shared()
    client.fit(1, shared)
    prompt = {n: t.clone() for n, t in model.shared.body.prompt.state_dict().items()}
    client.finish({n: t + 1 for n, t in shared.items()})
    assert tiny.same(dict(model.shared.body.prompt.state_dict()), prompt)
