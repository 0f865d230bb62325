"""The attack on uploads works where nothing stops it, and the defences lower what it finds."""

import pytest
import torch
from inversion_attack import Effort, recover, total_variation
from torch import nn

from fedm2ct.federation.update_noise import clip_and_noise, update_length
from fedm2ct.physics.geometry import ImageGrid
from fedm2ct.physics.phantoms import abdomen_like, ellipse_image

SIZE = 16


class Smooth(nn.Module):
    """Two convolutions with a smooth activation: as easy for an attacker as it gets."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 12, 3, stride=2, padding=1)
        self.last = nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1)

    def forward(self, x):
        return x + self.last(torch.sigmoid(self.second(torch.sigmoid(self.first(x)))))


def loss(output, truth):
    return (output - truth).square().mean()


@pytest.fixture(scope="module")
def victim():
    """A network, a slice that it was trained on, and the update of one gradient step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = Smooth()
    body = abdomen_like(torch.Generator().manual_seed(2))
    truth = ellipse_image(body, ImageGrid(SIZE, SIZE, 25.0)).float()
    image = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss(network(image), truth), parameters)
    return network, image, {n: -g for n, g in zip(names, gradients, strict=True)}


def likeness(found, image):
    """Return the correlation of two images."""
    return float(torch.corrcoef(torch.stack([found.flatten(), image.flatten()]))[0, 1])


def attacked(victim, update):
    network, image, _ = victim
    effort = Effort(iterations=400, rate=0.03, variation=1e-3, difference=1.0)
    found, cosine = recover(network, loss, update, image.shape, effort, seed=1)
    return likeness(found, image), cosine


def test_noise_lowers_what_the_attack_recovers(victim):
    update = victim[2]
    draw = torch.Generator().manual_seed(9)
    noisy = clip_and_noise(update, update_length(update), 0.1, draw)
    bare, cosine = attacked(victim, update)
    defended, noisy_cosine = attacked(victim, noisy)
    assert bare > 0.8 and cosine > 0.99
    assert defended < bare - 0.2
    assert noisy_cosine < cosine


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])
    assert float(total_variation(image)) == pytest.approx((1 + 3) / 2 + (0 + 2) / 2)
