import pytest
import torch

from fedm2ct.federation.methods import local_public
from fedm2ct.federation.methods.local_public import with_public
from fedm2ct.learning.meta_set import SimulatedMetaSet
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_public_slices_are_added_to_those_trained_on_and_to_no_others():
    setup = tiny.setup()
    task = setup.tasks[0]
    richer = with_public(setup, task)
    assert len(richer.train.truth) == len(task.train.truth) + 4
    assert torch.equal(richer.train.projections[:4], task.train.projections)
    assert richer.validation is task.validation
    assert torch.equal(with_public(setup, task).train.projections, richer.train.projections)


def test_public_noise_is_not_the_server_s():
    setup = tiny.setup()
    theirs = SimulatedMetaSet(setup.public, {"A": tiny.FAN}, 0.25, setup.seed).training(1)["A"]
    ours = with_public(setup, setup.tasks[0]).train[4:7]
    assert torch.equal(ours.clean, theirs.clean[:3])
    assert not torch.equal(ours.projections, theirs.projections[:3])


def test_it_is_local_training_otherwise():
    halves = local_public.build(tiny.setup())
    assert halves.server.initial_shared() == {}
    assert [c.fit(1, {}).samples for c in halves.clients.values()] == [4 + 4, 6 + 4]
