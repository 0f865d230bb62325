"""A running mean of a model's parameters over the steps of its training.

What single steps do to the weights is noise, in part; their mean has less of it. The exponential
one is as in arXiv 1412.6980, section 7.2, and needs no end of the training to be known.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""The exponential mean of a model's trained parameters: `m <- decay m + (1 - decay) w`.

    Parameters
    ----------
    model
        The model whose parameters are followed; the mean starts as they are.
    decay
        What is left of the mean after a step, in (0, 1). In the first steps it is
        `(1 + steps) / (10 + steps)` where that is less, so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.means = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of one more step in."""
        self.steps += 1
        left = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.means.values()), list(self.parameters.values()), 1 - left)

    @torch.no_grad()
    def restart(self, prefix: str) -> None:
        """Let the means of parameters whose names begin with `prefix` begin as these are."""
        for name, mean in self.means.items():
            if name.startswith(prefix):
                mean.copy_(self.parameters[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the means for its parameters; it has its own again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            self.means[name], parameter.data = parameter.data, self.means[name]

    def state(self) -> dict[str, Tensor]:
        """Return means and number of steps as CPU tensors."""
        means = {n: m.detach().cpu().clone() for n, m in self.means.items()}
        return {**{f"mean.{n}": m for n, m in means.items()}, "steps": torch.tensor(self.steps)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.steps = int(state["steps"])
        for name, mean in self.means.items():
            mean.copy_(state[f"mean.{name}"])
