"""CPML: the private and the shared network teach each other.

    L_P = rec(x) + lambda_p d(x, stopgrad z)        L_S = rec(z) + lambda_s d(z, stopgrad x)

after deep mutual learning in a federation (Shen et al. 2020, arXiv 2006.16765), with a regression
distance in place of the KL divergence (FedM2CT, doi 10.34133/cbsystems.0376, gives no equation).
The ramp over rounds is our own design: early peers teach each other noise.
"""

from collections.abc import Callable

from torch import Tensor

from fedm2ct.learning.losses import Distance
from fedm2ct.model.ts_iradonmap import Reconstruction


def ramp(round_index: int, ramp_rounds: int) -> float:
    """Return the weight's factor in a round (from 1): 0 in the first, 1 after `ramp_rounds`."""
    return 1.0 if ramp_rounds == 0 else min(1.0, (round_index - 1) / ramp_rounds)


def supervised_loss(distance: Distance) -> Callable[[Reconstruction, Tensor], Tensor]:
    """Return the loss of a model that has one image network."""

    def loss(result: Reconstruction, truth: Tensor) -> Tensor:
        return distance(result.final, truth)

    return loss


def both_images(result: Reconstruction) -> tuple[Tensor, Tensor]:
    """Return the private and the shared network's image.

    Raises
    ------
    ValueError
        When the model lacks one of the networks.
    """
    if result.private is None or result.shared is None:
        raise ValueError("mutual learning needs both a private and a shared network")
    return result.private, result.shared


def mutual_loss(
    distance: Distance, lambda_private: float, lambda_shared: float
) -> Callable[[Reconstruction, Tensor], Tensor]:
    """Return L_P + L_S for a model with both networks; gradients do not cross between them."""

    def loss(result: Reconstruction, truth: Tensor) -> Tensor:
        x, z = both_images(result)
        total = distance(x, truth) + distance(z, truth)
        if lambda_private:
            total = total + lambda_private * distance(x, z.detach())
        if lambda_shared:
            total = total + lambda_shared * distance(z, x.detach())
        return total

    return loss
