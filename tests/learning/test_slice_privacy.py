"""DP-SGD's gradients by hand, and in a site's training."""

import pytest
import torch
from torch import nn

from fedm2ct.federation.methods import METHODS
from fedm2ct.learning.seeds import secret_generator
from fedm2ct.learning.slice_privacy import SlicePrivacy, sampling_rate
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def draw():
    return torch.Generator().manual_seed(3)


def losses(parameter, rows):
    return [lambda row=row: (parameter * torch.tensor(row)).sum() for row in rows]


def test_each_slice_s_gradient_is_clipped_by_itself():
    parameter = nn.Parameter(torch.zeros(2))
    privacy = SlicePrivacy(1.0, 0.0, draw())
    privacy.backward([parameter], losses(parameter, [[3.0, 4.0], [0.0, 0.5]]), 2.0)
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.65])
    assert privacy.steps == 1


def test_all_parameters_count_together_and_those_without_a_gradient_get_noise():
    first, second, unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    privacy = SlicePrivacy(1.0, 0.5, draw())
    privacy.backward([first, second, unused], [lambda: 3 * first.sum() + 4 * second.sum()], 1.0)
    noise = 0.5 * torch.cat([torch.randn(1, generator=g) for g in [draw()] for _ in range(3)])
    got = torch.cat([p.grad for p in (first, second, unused)])
    assert got.tolist() == pytest.approx((torch.tensor([0.6, 0.8, 0.0]) + noise).tolist())


def test_a_step_without_any_slice_is_noise_alone():
    parameter = nn.Parameter(torch.zeros(50_000))
    value = SlicePrivacy(2.0, 1.5, draw()).backward([parameter], [], 4.0)
    assert float(value) == 0.0
    assert float(parameter.grad.std()) == pytest.approx(2.0 * 1.5 / 4.0, rel=0.02)


def test_the_loss_of_a_step_without_any_slice_lies_where_the_parameters_do():
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    assert SlicePrivacy(1.0, 1.0, draw()).backward([parameter], [], 1.0).device.type == "meta"


def test_every_slice_takes_part_with_the_stated_probability():
    privacy = SlicePrivacy(1.0, 1.0, draw())
    counts = torch.zeros(8)
    for _ in range(2000):
        counts[privacy.choose(8, 2)] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05
    assert sampling_rate(8, 2) == 0.25 and sampling_rate(2, 4) == 1.0


def trained(privacy):
    halves = METHODS["fedavg"](tiny.setup())
    trainer = halves.trainers["A"]
    trainer.privacy = privacy
    halves.clients["A"].fit(1, halves.server.initial_shared())
    return trainer.model.shared_state()


def test_training_takes_the_noise_from_the_secret_and_from_nothing_else():
    def private(secret):
        return SlicePrivacy(1.0, 1.0, secret_generator(secret, "A", 1))

    one = trained(private(b"secret"))
    assert tiny.same(one, trained(private(b"secret")))
    assert not tiny.same(one, trained(private(b"another")))


def test_without_clipping_and_noise_all_slices_give_the_gradient_of_the_mean():
    halves = METHODS["fedavg"](tiny.setup(training={"batch_size": 4, "local_steps": 1}))
    trainer, start = halves.trainers["A"], halves.server.initial_shared()
    assert len(trainer.train_data) == 4
    trainer.model.load_shared(start)
    everything = trainer._loss_of(torch.arange(4), halves.clients["A"].loss_of_round(1))
    parameters = list(trainer.model.shared_parameters().values())
    expected = torch.autograd.grad(everything, parameters)
    trainer.privacy = SlicePrivacy(1e9, 0.0, draw())
    kept = []
    trainer.step(
        0,
        trainer.batches(1),
        halves.clients["A"].loss_of_round(1),
        lambda: kept.extend(p.grad.clone() for p in parameters),
    )
    for got, wanted in zip(kept, expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-6, rtol=1e-4)
