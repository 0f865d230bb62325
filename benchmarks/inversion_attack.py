"""The attack of `inversion.py`: an image from what a site has sent.

Geiping et al. 2020 (arXiv 2003.14053): find the image whose gradient points the way that the update
does, in the sense of the cosine, with a penalty on total variation,

    min_x  1 - <g(x), -u> / (|g(x)| |u|)  +  lambda TV(x),

by Adam on the sign of the gradient. There the label of a classifier was known. Here the target is
an image as well: the attacker looks for the network's input x (the site's FBP) and for its truth y
together, and knows that they differ little. The attacker is the server: it knows the network that
it has sent, the loss and the optimiser.

Ours: the cosine is taken of each parameter tensor, and averaged. Over all entries at once the last
layer's outweigh the rest, and images that have nothing to do with the slice reach 0.9999. And
Adam's first step divides each entry of the gradient by its own magnitude, so that an update holds
little more than signs: the attacker knows that and does the same to its own gradient, softly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Effort:
    """How hard the attacker tries.

    Attributes
    ----------
    iterations
        Steps of its optimiser.
    rate
        Its first step, in units of water's attenuation; it falls to a hundredth.
    variation
        Weight of the total variation of each of the two images.
    difference
        Weight of the mean square of their difference, which is small: low dose, not another image.
    signs
        Whether the update is taken for a first step of Adam, not for a gradient.
    """

    iterations: int = 1000
    rate: float = 0.03
    variation: float = 3e-2
    difference: float = 1.0
    signs: bool = False


def recover(
    network: nn.Module,
    loss: Loss,
    update: dict[str, Tensor],
    shape: tuple[int, ...],
    effort: Effort,
    seed: int,
) -> tuple[Tensor, float]:
    """Return the image that explains an update best, and how well: the cosine.

    Parameters
    ----------
    network
        What the site has started from.
    loss
        The site's loss of an output and a truth.
    update
        What the site has sent less what it was sent, by parameter.
    shape
        Of the image, ``(1, 1, row, column)``.
    effort
        How hard to try.
    seed
        Of the image to start from.
    """
    draw = torch.Generator().manual_seed(seed)
    image = (0.5 + 0.05 * torch.randn(shape, generator=draw)).requires_grad_()
    change = (0.02 * torch.randn(shape, generator=draw)).requires_grad_()
    parameters = dict(network.named_parameters())
    target = [-update[name].reshape(-1) for name in parameters]
    optimiser = torch.optim.Adam([image, change], lr=effort.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, effort.iterations, effort.rate / 100
    )
    best, best_cosine = image.detach().clone(), -1.0
    for _ in range(effort.iterations):
        value = loss(network(image), image + change)
        found = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
        pairs = zip(found, target, strict=True)
        cosine = torch.stack([_cosine(g.reshape(-1), t, effort.signs) for g, t in pairs]).mean()
        reached = float(cosine.detach())
        if reached > best_cosine:
            best, best_cosine = image.detach().clone(), reached
        penalty = total_variation(image) + total_variation(image + change)
        objective = 1 - cosine + effort.variation * penalty
        objective = objective + effort.difference * change.square().mean()
        for unknown, gradient in zip(
            (image, change), torch.autograd.grad(objective, [image, change]), strict=True
        ):
            unknown.grad = gradient.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0.0, 3.0)
    return best, best_cosine


def _cosine(gradient: Tensor, target: Tensor, signs: bool) -> Tensor:
    if signs:
        gradient = gradient / (gradient.abs() + gradient.detach().abs().mean() * 0.1 + 1e-20)
    return torch.nn.functional.cosine_similarity(gradient, target, dim=0)


def total_variation(image: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours."""
    return image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()
