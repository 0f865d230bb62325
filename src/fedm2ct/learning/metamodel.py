"""FMDL: the server's metamodel and its fusion with what the sites upload.

    S_bar  = sum_k w_k S_k
    M      = train(S_bar; meta-set)             each pair prompted by the protocol it was made under
    S_next = (1 - alpha) S_bar + alpha M        alpha by line search on held-out pairs

FedM2CT (doi 10.34133/cbsystems.0376) trains a metamodel on paired low/normal-dose images and fuses
it, weighted, with the uploads. Two sources of pairs exist here. *Contributed*: sites give pairs.
*Simulated*, our own design: sites give protocols, the server simulates each site's acquisition
on public scans, so that no patient image leaves a site.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import torch
from torch import Tensor

from fedm2ct.learning.losses import Distance
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import channels_last, learning_rate_factor, set_rates
from fedm2ct.model.ts_iradonmap import SharedNetwork

State = dict[str, Tensor]


@dataclass(frozen=True)
class MetaPairs:
    """Pairs made under one protocol.

    Attributes
    ----------
    condition
        Condition vector of the protocol, shape ``(features,)``.
    initial, truth
        Low-dose FBP and normal-dose images, ``(n, 1, row, column)``, air 0, water 1.
    """

    condition: Tensor
    initial: Tensor
    truth: Tensor


class MetaSource(Interface):
    """Where the server's pairs come from: one `MetaPairs` for each protocol."""

    def training(self, round_index: int) -> list[MetaPairs]:
        """Return the pairs to train on in a round (a simulation may draw new noise)."""
        ...

    def held_out(self) -> list[MetaPairs]:
        """Return the pairs on which alpha is searched; never trained on."""
        ...


@dataclass(frozen=True)
class MetaSchedule:
    """How the metamodel is trained; rates follow the sites' schedule."""

    rounds: int
    steps: int
    batch_size: int
    learning_rate: float
    final_rate: float


class Metamodel:
    """Trains the shared network on the server's pairs and searches alpha."""

    def __init__(
        self,
        network: SharedNetwork,
        source: MetaSource,
        schedule: MetaSchedule,
        distance: Distance,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network = channels_last(network.to(device))
        self.source, self.schedule, self.distance = source, schedule, distance
        self.seed, self.device = seed, device
        self.optimiser = torch.optim.Adam(
            [{"params": list(network.parameters()), "base": schedule.learning_rate}], fused=True
        )
        self._held_out: list[MetaPairs] | None = None

    def _on_device(self, pairs: Sequence[MetaPairs]) -> list[MetaPairs]:
        to = self.device
        return [MetaPairs(p.condition.to(to), p.initial.to(to), p.truth.to(to)) for p in pairs]

    def train(self, start: State, round_index: int) -> State:
        """Return M: the shared parameters after the round's meta-steps from `start`."""
        self.network.load_state_dict(start)
        self.network.train()
        pairs = self._on_device(self.source.training(round_index))
        draw = generator(self.seed, "metamodel", round_index)
        total = self.schedule.rounds * self.schedule.steps
        for step in range(self.schedule.steps):
            position = (round_index - 1) * self.schedule.steps + step
            set_rates(
                self.optimiser, learning_rate_factor(position, total, self.schedule.final_rate)
            )
            self._step(pairs[step % len(pairs)], draw)
        return {n: t.detach().clone() for n, t in self.network.state_dict().items()}

    def _step(self, pairs: MetaPairs, draw: torch.Generator) -> None:
        chosen = torch.randint(len(pairs.truth), (self.schedule.batch_size,), generator=draw)
        chosen = chosen.to(self.device)
        image = self.network(pairs.initial[chosen], pairs.condition)
        loss = self.distance(image, pairs.truth[chosen])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def held_out_error(self, state: State) -> float:
        """Return the mean squared error of shared parameters on held-out pairs, per protocol."""
        if self._held_out is None:
            self._held_out = self._on_device(self.source.held_out())
        self.network.load_state_dict(state)
        self.network.eval()
        errors = [
            (self.network(p.initial, p.condition) - p.truth).square().mean() for p in self._held_out
        ]
        return float(torch.stack(errors).mean())

    def fuse(self, averaged: State, meta: State, alpha: float | None) -> tuple[State, float]:
        """Return S_next and alpha; a given alpha is used as it is, None searches for it.

        The search is never worse than alpha = 0 on the held-out pairs.
        """
        if alpha is None:
            alpha = line_search(lambda a: self.held_out_error(interpolate(averaged, meta, a)))
        return interpolate(averaged, meta, alpha), alpha


def interpolate(start: State, end: State, alpha: float) -> State:
    """Return (1 - alpha) start + alpha end, name by name."""
    return {name: torch.lerp(tensor, end[name], alpha) for name, tensor in start.items()}


def line_search(error: Callable[[float], float], coarse: int = 5, refine: int = 2) -> float:
    """Return the alpha in [0, 1] with the least error on a grid, refined about its best point."""
    known: dict[float, float] = {}

    def score(alpha: float) -> float:
        if alpha not in known:
            known[alpha] = error(alpha)
        return known[alpha]

    step = 1.0 / (coarse - 1)
    for index in range(coarse):
        score(index * step)
    for _ in range(refine):
        step /= 2
        best = min(known, key=lambda a: (known[a], a))
        for alpha in (best - step, best + step):
            if 0.0 <= alpha <= 1.0:
                score(alpha)
    return min(known, key=lambda a: (known[a], a))
