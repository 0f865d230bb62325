import math

import pytest
import torch

from fedm2ct.learning.contrast import frozen_copy, model_contrast, represented
from fedm2ct.model.image import IMAGE_NETWORKS, build_image_network


def test_model_contrast_by_hand():
    """Similarities 1 and 0 in one slice, 0 and -1 in the other: both log(1 + e^(-1/0.5))."""
    own = torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    towards = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    away = torch.tensor([[0.0, 4.0], [-1.0, 0.0]])
    expected = math.log(1 + math.exp(-2))
    assert model_contrast(own, towards, away, 0.5).item() == pytest.approx(expected)


def test_model_contrast_of_two_that_are_alike_is_log_two():
    own, other = torch.rand(3, 4), torch.rand(3, 4)
    assert model_contrast(own, other, other, 0.5).item() == pytest.approx(math.log(2))


def test_model_contrast_pulls_to_the_one_and_pushes_from_the_other():
    own = torch.tensor([[1.0, 1.0]], requires_grad=True)
    model_contrast(own, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5).backward()
    assert own.grad[0, 0] < 0 < own.grad[0, 1]


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_a_representation_has_a_number_a_channel_and_reaches_the_encoder_only(name):
    network = build_image_network(name, 1, 4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with represented(network) as seen:
        network(torch.rand(2, 1, 16, 16))
    assert seen.of_batch.shape[0] == 2 and seen.of_batch.dim() == 2
    seen.of_batch.square().sum().backward()
    reached = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}
    assert "last" not in reached and "decode" not in reached and reached
    network(torch.rand(5, 1, 16, 16))
    assert len(seen.of_batch) == 2  # no longer watched


def test_a_network_that_was_not_used_has_no_representation():
    with represented(build_image_network("unet", 1, 2)) as seen, pytest.raises(ValueError):
        _ = seen.of_batch


def test_a_frozen_copy_shares_nothing():
    network = build_image_network("unet", 1, 2)
    state = {n: t + 1 for n, t in network.state_dict().items()}
    copied = frozen_copy(network, state)
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in network.parameters())
    for name, tensor in copied.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert not torch.equal(tensor, network.state_dict()[name])
