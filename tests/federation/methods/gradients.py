"""What a method adds to a loss's own gradients, step by step."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedm2ct.learning.trainer import SiteTrainer

State = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """A step: where the parameters were, the loss's gradients, and those the optimiser got."""

    parameters: State
    own: State
    given: State


def watch_steps(monkeypatch: pytest.MonkeyPatch, trainer: SiteTrainer) -> list[Step]:
    """Return a list to which every step that the trainer will take is added."""
    steps: list[Step] = []
    own: list[State] = []
    backward, step = torch.Tensor.backward, trainer.optimiser.step

    def copies(of: Callable[[torch.nn.Parameter], Tensor | None]) -> State:
        named = ((n, of(p)) for n, p in trainer.model.named_parameters())
        return {n: t.detach().clone() for n, t in named if t is not None}

    def recording(tensor: Tensor) -> None:
        backward(tensor)
        own.append(copies(lambda p: p.grad))

    def watching() -> None:
        steps.append(Step(copies(lambda p: p), own[-1], copies(lambda p: p.grad)))
        step()

    monkeypatch.setattr(torch.Tensor, "backward", recording)
    monkeypatch.setattr(trainer.optimiser, "step", watching)
    return steps


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether two gradients are equal but for rounding."""
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)
