"""FML and FedKD: the losses by hand, no gradient crosses, the product is the private network."""

import pytest
import torch

from fedm2ct.federation.methods import fedkd, fml
from fedm2ct.federation.methods.fedkd import distillation_loss
from fedm2ct.federation.methods.fml import meme_loss
from fedm2ct.model.ts_iradonmap import Reconstruction
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
TRUTH = torch.zeros(1)


def squared(image, truth):
    return (image - truth).square().mean()


def images(x, z):
    made = [torch.tensor([float(value)], requires_grad=True) for value in (x, z)]
    return Reconstruction(TRUTH, private=made[0], shared=made[1], weight=torch.tensor(1.0)), *made


def test_fml_by_hand():
    """x = 3, z = 1, y = 0: d(x, y) = 9, d(z, y) = 1, d(x, z) = 4; alpha 3/4, beta 1/4."""
    result, x, z = images(3, 1)
    loss = meme_loss(squared, 0.75, 0.25)(result, TRUTH)
    assert loss.item() == 0.75 * 9 + 0.25 * 4 + 0.25 * 1 + 0.75 * 4
    loss.backward()
    assert x.grad.item() == 0.75 * 6 + 0.25 * 4  # to truth, and to z
    assert z.grad.item() == 0.25 * 2 - 0.75 * 4  # to truth, and to x


def test_fml_with_full_weight_on_the_truth_teaches_nothing():
    result, x, z = images(3, 1)
    meme_loss(squared, 1.0, 1.0)(result, TRUTH).backward()
    assert (x.grad.item(), z.grad.item()) == (6.0, 2.0)


def test_fedkd_by_hand():
    """The same images: both distillation terms are weighed by 1 / (9 + 1), a constant."""
    result, x, z = images(3, 1)
    loss = distillation_loss(squared)(result, TRUTH)
    assert loss.item() == pytest.approx(10 + 8 / 10)
    loss.backward()
    assert x.grad.item() == pytest.approx(6 + 4 / 10)
    assert z.grad.item() == pytest.approx(2 - 4 / 10)


def test_fedkd_distils_less_where_both_are_wrong():
    """The same difference between the two counts less the farther they are from the truth."""
    shares = []
    for x, z in ((3, 1), (30, 28)):
        result, *_ = images(x, z)
        shares.append(distillation_loss(squared)(result, TRUTH).item() - x**2 - z**2)
    assert shares[0] == pytest.approx(0.8, abs=1e-4)
    assert shares[1] == pytest.approx(8 / (900 + 784), abs=1e-3)


@pytest.mark.parametrize("method", [fml, fedkd])
def test_the_meme_travels_and_the_private_network_is_the_product(method):
    halves = method.build(tiny.setup(model={"private": "resnet", "shared": "unet"}))
    start = halves.server.initial_shared()
    upload = halves.clients["A"].fit(1, start)
    assert upload.shared.keys() == start.keys()
    assert all(name.startswith("shared.body.") for name in start)
    assert upload.metrics["val_psnr_db"] == upload.metrics["val_private_psnr_db"]
    kept = halves.clients["A"].private_state()
    assert any(name.startswith("model.private.inner") for name in kept)


@pytest.mark.parametrize("method", [fml, fedkd])
def test_each_network_learns(method):
    halves = method.build(tiny.setup())
    model = halves.trainers["A"].model
    start = halves.server.initial_shared()
    model.load_shared(start)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    halves.clients["A"].fit(1, start)
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"shared", "private", "sinogram", "backprojection"}
