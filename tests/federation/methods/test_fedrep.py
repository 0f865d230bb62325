"""FedRep: what is the head's, whose turn it is, the plain mean."""

import pytest
import torch

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import fedavg, fedrep
from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.federation.methods.fedrep import head_steps
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_the_mean_by_hand():
    uploads = [Upload(s, {"w": torch.tensor([v])}, n) for s, v, n in (("A", 1.0, 1), ("B", 5.0, 9))]
    assert MeanServer({}).aggregate(1, {}, uploads).shared["w"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("share", "steps", "expected"), [(0.5, 10, 5), (0.91, 11, 10), (0.0, 4, 1), (1.0, 4, 3)]
)
def test_the_head_s_share_of_a_round(share, steps, expected):
    assert head_steps(share, steps) == expected


def test_a_round_of_one_step_is_refused():
    with pytest.raises(FedM2CTError, match=r"training\.local_steps"):
        head_steps(0.5, 1)


def test_all_but_the_last_layer_travels_and_it_starts_alike():
    halves = fedrep.build(tiny.setup())
    whole = fedavg.build(tiny.setup()).server.initial_shared()
    sent = halves.server.initial_shared()
    assert whole.keys() - sent.keys() == {"shared.body.last.weight", "shared.body.last.bias"}
    assert tiny.same(sent, {n: whole[n] for n in sent})
    declared = halves.trainers["A"].model.declare()
    assert declared["shared.body.last.weight"] == "private"
    a, b = (t.model.shared.state_dict() for t in halves.trainers.values())
    assert tiny.same(a, b)


def test_each_part_moves_in_its_turn_only():
    halves = fedrep.build(
        tiny.setup(training={"local_steps": 4}, method={"fedrep": {"head_share": 0.5}})
    )
    trainer, start = halves.trainers["A"], halves.server.initial_shared()
    turns, step = [], trainer.optimiser.step

    def watching():
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        result = step()
        moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
        turns.append((bool(moved & start.keys()), bool(moved - start.keys())))
        return result

    trainer.optimiser.step = watching
    halves.clients["A"].fit(1, start)
    assert turns == [(False, True)] * 2 + [(True, False)] * 2


def test_the_head_stays_and_is_not_overwritten():
    halves = fedrep.build(tiny.setup())
    client, model = halves.clients["A"], halves.trainers["A"].model
    start = halves.server.initial_shared()
    sent = client.fit(1, start).shared
    assert sent.keys() == start.keys()
    head = model.shared.body.last.weight.detach().clone()
    assert float(head.abs().max()) > 0
    client.finish(start)
    assert torch.equal(model.shared.body.last.weight, head)
    assert torch.equal(client.private_state()["model.shared.body.last.weight"], head)
