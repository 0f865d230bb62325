import pytest
import torch

from fedm2ct.learning.losses import l2
from fedm2ct.learning.mutual import mutual_loss, ramp, supervised_loss
from fedm2ct.model.ts_iradonmap import ModelSpec, Reconstruction, TSiRadonMAP
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
TRUTH = torch.zeros(1, 1, 2, 2)


def scalars():
    """Return two outputs that one number each decides, and those numbers."""
    x, z = torch.tensor(1.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    ones = torch.ones(1, 1, 2, 2)
    return x, z, Reconstruction(ones, z * ones, x * ones, torch.tensor(0.5))


def test_ramp_starts_at_zero_and_ends_at_one():
    assert [ramp(r, 4) for r in (1, 2, 3, 4, 5, 6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert ramp(1, 0) == 1.0


def test_value_and_gradients_by_hand():
    """d = 100 (a - b)^2; each output is drawn to the truth and to the other one, held still."""
    x, z, result = scalars()
    loss = mutual_loss(l2, 0.3, 0.7)(result, TRUTH)
    assert float(loss.detach()) == pytest.approx(100 * (1 + 9 + 0.3 * 4 + 0.7 * 4))
    loss.backward()
    assert float(x.grad) == pytest.approx(200 * (1 + 0.3 * (1 - 3)))
    assert float(z.grad) == pytest.approx(200 * (3 + 0.7 * (3 - 1)))


@pytest.mark.parametrize(("private", "shared"), [(0.5, 0.0), (0.0, 0.5)])
def test_one_way_teaches_one_network_only(private, shared):
    x, z, result = scalars()
    mutual_loss(l2, private, shared)(result, TRUTH).backward()
    assert float(x.grad) == pytest.approx(200 * (1 - 2 * private))
    assert float(z.grad) == pytest.approx(200 * (3 + 2 * shared))


def test_lambda_zero_is_supervised_learning_of_both():
    x, z, result = scalars()
    loss = mutual_loss(l2, 0.0, 0.0)(result, TRUTH)
    both = l2(result.private, TRUTH) + l2(result.shared, TRUTH)
    assert torch.equal(loss, both)
    loss.backward()
    assert (float(x.grad), float(z.grad)) == (200.0, 600.0)


def test_mutual_learning_needs_two_networks():
    _, _, result = scalars()
    lonely = Reconstruction(result.initial, None, result.private, result.weight)
    with pytest.raises(ValueError, match="both"):
        mutual_loss(l2, 0.1, 0.1)(lonely, TRUTH)


def test_supervised_loss_is_that_of_the_final_image():
    _, _, result = scalars()
    assert float(supervised_loss(l2)(result, TRUTH).detach()) == pytest.approx(100 * 2.0**2)


def gradients(coupling, lambda_private, lambda_shared, part):
    """Return the gradients of one network of a real model under a mutual loss."""
    data = tiny.paired(tiny.PARALLEL, 1)
    spec = ModelSpec(width=2, coupling=coupling, shared_input="fbp")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TSiRadonMAP(tiny.PARALLEL, spec)
        for network in (model.private, model.shared):
            for parameter in network.parameters():  # off the start, where last layers are zero
                torch.nn.init.normal_(parameter, std=0.3)
    mutual_loss(l2, lambda_private, lambda_shared)(model(data.projections), data.truth).backward()
    return {n: p.grad for n, p in getattr(model, part).named_parameters() if p.grad is not None}


@pytest.mark.parametrize("coupling", ["cascaded", "side-by-side"])
def test_gradients_do_not_cross_between_the_networks(coupling):
    """What the private network is taught must not move the shared one, nor the other way."""
    alone = gradients(coupling, 0.0, 0.0, "shared")
    assert tiny.same(gradients(coupling, 0.5, 0.0, "shared"), alone)
    assert not tiny.same(gradients(coupling, 0.0, 0.5, "shared"), alone)
    alone = gradients(coupling, 0.0, 0.0, "private")
    assert tiny.same(gradients(coupling, 0.0, 0.5, "private"), alone)
    assert not tiny.same(gradients(coupling, 0.5, 0.0, "private"), alone)
