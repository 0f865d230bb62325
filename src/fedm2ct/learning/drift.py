"""Terms against client drift: what a method adds to the gradients of a site's own loss.

The added gradient is that of a term of the local objective, so an optimiser of any kind treats it
as if the term stood in the loss, without a pass through the network.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedm2ct.learning.trainer import Correction


def proximal(
    parameters: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor], strength: float
) -> Correction:
    """Return the term ``strength / 2 |w - anchor|^2``, which holds parameters near an anchor.

    Parameters
    ----------
    parameters
        Those that are held.
    anchor
        Where each is held, by the same names.
    strength
        Factor of the term.
    """
    fixed = on_devices_of(parameters, anchor)

    @torch.no_grad()
    def add(index: int) -> None:
        for name, parameter in parameters.items():
            gradient_of(parameter).add_(parameter - fixed[name], alpha=strength)

    return add


def linear(parameters: Mapping[str, nn.Parameter], direction: Mapping[str, Tensor]) -> Correction:
    """Return the term ``<direction, w>``: a constant gradient."""
    fixed = on_devices_of(parameters, direction)

    @torch.no_grad()
    def add(index: int) -> None:
        for name, parameter in parameters.items():
            gradient_of(parameter).add_(fixed[name])

    return add


def weighted_contrast(
    parameters: Mapping[str, nn.Parameter],
    towards: Mapping[str, Tensor],
    away: Mapping[str, Tensor],
    strength: float,
) -> Correction:
    """Return the term ``strength |w - towards|_1 / |w - away|_1`` (FedMRI, arXiv 2112.05752).

    The norms are taken over all parameters together. At ``w = away``, where the term is not
    defined, it adds nothing.
    """
    near, far = on_devices_of(parameters, towards), on_devices_of(parameters, away)

    @torch.no_grad()
    def add(index: int) -> None:
        to_near = {name: parameter - near[name] for name, parameter in parameters.items()}
        to_far = {name: parameter - far[name] for name, parameter in parameters.items()}
        p = torch.stack([t.abs().sum(dtype=torch.float64) for t in to_near.values()]).sum()
        n = torch.stack([t.abs().sum(dtype=torch.float64) for t in to_far.values()]).sum()
        if float(n) == 0.0:
            return
        pull, push = strength / float(n), strength * float(p) / float(n) ** 2
        for name, parameter in parameters.items():
            gradient_of(parameter).add_(to_near[name].sign(), alpha=pull)
            gradient_of(parameter).sub_(to_far[name].sign(), alpha=push)

    return add


def together(*terms: Correction) -> Correction:
    """Return several terms, added one after the other."""

    def add(index: int) -> None:
        for term in terms:
            term(index)

    return add


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient.

    Raises
    ------
    ValueError
        When the loss does not depend on it.
    """
    if parameter.grad is None:
        raise ValueError("the loss does not depend on a parameter whose gradient is to be changed")
    return parameter.grad


def on_devices_of(
    parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that belong to parameters, each where its parameter is."""
    return {name: state[name].to(parameter.device) for name, parameter in parameters.items()}
