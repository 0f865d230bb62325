"""FMDL: the server's metamodel and its fusion with what the sites upload.

    S_bar  = sum_k w_k S_k
    M      = train(S_bar; meta-set)             each pair prompted by the protocol it was made under
    S_next = (1 - alpha) S_bar + alpha M        alpha by line search on held-out pairs

FedM2CT (doi 10.34133/cbsystems.0376) trains a metamodel on paired low/normal-dose images and fuses
it, weighted, with the uploads. Our own design: the server cannot have the sites' private sinogram
networks and back-projections, so it keeps a *twin* of each protocol's, learned on the meta-set
together with M. M then corrects images of the kind that the shared network meets at the sites.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol as Interface

import torch
from torch import Tensor

from fedm2ct.config import TrainingConfig
from fedm2ct.data.simulate import PairedData
from fedm2ct.learning.kept import KeptForRounds
from fedm2ct.learning.losses import Distance
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.slices import Slices
from fedm2ct.learning.trainer import (
    channels_last,
    learning_rate_factor,
    load_optimiser_state,
    make_optimiser,
    optimiser_state,
    part_of,
    set_rates,
)
from fedm2ct.model.ts_iradonmap import SharedNetwork, TSiRadonMAP

State = dict[str, Tensor]


class MetaSource(Interface):
    """Where the server's pairs come from: projections and truth for each protocol, by name."""

    def training(self, round_index: int) -> Mapping[str, PairedData]:
        """Return the pairs to train on in a round (a simulation may draw new noise)."""
        ...

    def held_out(self) -> Mapping[str, PairedData]:
        """Return the pairs on which alpha is searched; never trained on."""
        ...


@dataclass(frozen=True)
class MetaSchedule:
    """How the metamodel is trained: steps a round, the rest as at the sites."""

    steps: int
    training: TrainingConfig


class Metamodel:
    """Trains the shared network and the server's twins on its pairs, and searches alpha.

    Parameters
    ----------
    network
        The shared network.
    twins
        A model for each protocol, by the meta-set's names, without a private image network; their
        shared network is replaced by `network`.
    source, schedule, distance, seed, device
        The pairs, how long, the loss, the run's seed, where to compute.
    """

    def __init__(
        self,
        network: SharedNetwork,
        twins: Mapping[str, TSiRadonMAP],
        source: MetaSource,
        schedule: MetaSchedule,
        distance: Distance,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network = channels_last(network.to(device))
        self.twins = {name: twins[name].to(device) for name in sorted(twins)}
        for twin in self.twins.values():
            twin.shared = self.network
        self.source, self.schedule, self.distance = source, schedule, distance
        self.seed, self.device = seed, device
        self.optimiser = make_optimiser(list(self.twins.values()), schedule.training)
        self._held_out: dict[str, Slices] | None = None
        self._pairs = KeptForRounds[dict[str, Slices]](schedule.training)

    def train(self, start: State, round_index: int) -> State:
        """Return M on the CPU: the shared parameters after the round's meta-steps from `start`."""
        self.network.load_state_dict(start)
        pairs = self._pairs.get(round_index, lambda r: self._on_device(self.source.training(r)))
        draw = generator(self.seed, "metamodel", round_index)
        training, names = self.schedule.training, list(pairs)
        total = training.rounds * self.schedule.steps
        for step in range(self.schedule.steps):
            position = (round_index - 1) * self.schedule.steps + step
            set_rates(self.optimiser, learning_rate_factor(position, total, training.final_rate))
            name = names[step % len(names)]
            self._step(self.twins[name], pairs[name], draw)
        return {n: t.detach().cpu().clone() for n, t in self.network.state_dict().items()}

    def _on_device(self, pairs: Mapping[str, PairedData]) -> dict[str, Slices]:
        return {n: Slices(pairs[n], self.twins[n], self.device) for n in sorted(pairs)}

    def _step(self, twin: TSiRadonMAP, pairs: Slices, draw: torch.Generator) -> None:
        batch = self.schedule.training.batch_size
        chosen = torch.randint(len(pairs), (batch,), generator=draw)
        sinogram, truth, analytical = pairs.batch(chosen)
        twin.train()
        loss = self.distance(twin(sinogram, analytical).final, truth)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def held_out_error(self, state: State) -> float:
        """Return the mean squared error of shared parameters on held-out pairs, per protocol."""
        if self._held_out is None:
            self._held_out = self._on_device(self.source.held_out())
        self.network.load_state_dict(state)
        errors = []
        for name, pairs in self._held_out.items():
            sinogram, truth, analytical = pairs.batch(torch.arange(len(pairs)))
            image = self.twins[name].eval()(sinogram, analytical).final
            errors.append((image - truth).square().mean())
        return float(torch.stack(errors).mean())

    def fuse(self, averaged: State, meta: State, alpha: float | None) -> tuple[State, float]:
        """Return S_next and alpha; a given alpha is used as it is, None searches for it.

        The search is never worse than alpha = 0 on the held-out pairs.
        """
        if alpha is None:
            alpha = line_search(lambda a: self.held_out_error(interpolate(averaged, meta, a)))
        return interpolate(averaged, meta, alpha), alpha

    def state(self) -> State:
        """Return what the server keeps between rounds: optimiser and twins."""
        kept = {f"optimiser.{n}": t for n, t in optimiser_state(self.optimiser).items()}
        for name, twin in self.twins.items():
            kept.update({f"{name}/{n}": t for n, t in twin.private_state().items()})
        return kept

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        load_optimiser_state(self.optimiser, part_of(state, "optimiser."))
        for name, twin in self.twins.items():
            twin.load_state_dict(part_of(state, f"{name}/"), strict=False)


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
