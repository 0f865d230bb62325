"""Training whose result says little of any one slice: DP-SGD's gradients.

Abadi et al. 2016 (doi 10.1145/2976749.2978318). In each step every training slice takes part with
probability q, by itself; each slice's gradient is clipped to the length C; the sum gets Gaussian
noise of standard deviation z C and is divided by the expected number of slices, N q:

    g = ( sum_i g_i min(1, C / |g_i|)  +  N(0, z^2 C^2 I) ) / (N q)

The gradient is that of all trained parameters together, the private ones included: what a site
sends depends on its private part, so that part must be trained under the same protection.

Ours: the noise goes to Adam instead of SGD, which is post-processing and costs no privacy.

Whoever can guess the noise has no noise to overcome, and whoever gets two results under the same
noise has their difference without any. So noise and the choice of slices are drawn from a secret of
the site's own, anew for whatever is trained (`fedm2ct.federation.protection`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedm2ct.learning.seeds import Draw, normal, uniform


class SlicePrivacy:
    """How a site protects single slices, and how many steps it has taken so.

    Attributes
    ----------
    steps
        Steps taken so far, for the accountant, those of rounds that are trained again among them.

    Parameters
    ----------
    clip
        Longest gradient of one slice, C.
    noise
        Standard deviation of the noise in units of `clip`, z.
    draw
        What noise and the choice of slices are drawn from; another one for each round.
    """

    def __init__(self, clip: float, noise: float, draw: Draw) -> None:
        self.clip, self.noise, self.draw = clip, noise, draw
        self.steps = 0

    def choose(self, slices: int, batch_size: int) -> list[int]:
        """Return the slices that take part in a step: each with probability `sampling_rate`."""
        rate = sampling_rate(slices, batch_size)
        taken = uniform(self.draw, slices) < rate
        return [index for index, takes_part in enumerate(taken) if takes_part]

    def backward(
        self,
        parameters: Sequence[nn.Parameter],
        losses: Sequence[Callable[[], Tensor]],
        expected: float,
    ) -> Tensor:
        """Set the parameters' gradients; return the mean loss over the slices (0 of none).

        Parameters
        ----------
        parameters
            All that is trained.
        losses
            Computes the loss of one slice, for each slice that takes part.
        expected
            The number of slices that take part on average.
        """
        self.steps += 1
        total = [torch.zeros_like(parameter) for parameter in parameters]
        values: list[Tensor] = []
        for loss in losses:
            value = loss()
            values.append(value.detach())
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            gradients = [g for g in found if g is not None]
            length = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
            factor = (self.clip / (length + 1e-12)).clamp(max=1.0)
            for entry, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    entry += gradient * factor
        for parameter, entry in zip(parameters, total, strict=True):
            noise = normal(self.draw, parameter.shape).to(entry) * self.clip * self.noise
            parameter.grad = (entry + noise) / expected
        return torch.stack(values).mean() if values else parameters[0].new_zeros(())


def sampling_rate(slices: int, batch_size: int) -> float:
    """Return q, such that `batch_size` of a number of slices take part on average."""
    return min(1.0, batch_size / max(1, slices))
