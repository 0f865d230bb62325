"""What one site does with its own slices: train a TS-iRadonMAP, validate it, keep the best.

The trainer knows nothing of rounds of a federation beyond their index, from which it derives the
order of its batches and its place in the learning-rate schedule: a site that resumes at round r
needs no random state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedm2ct.config import TrainingConfig
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import Measurements, PairedData
from fedm2ct.errors import FedM2CTError
from fedm2ct.learning.losses import validation_psnr
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.slice_privacy import SlicePrivacy, sampling_rate
from fedm2ct.learning.slices import Slices, paired
from fedm2ct.model.ts_iradonmap import Reconstruction, TSiRadonMAP
from fedm2ct.physics.protocols import Protocol

Loss = Callable[[Reconstruction, Tensor], Tensor]
Correction = Callable[[int], None]
"""Changes the gradients before the optimiser uses them; is told the step's index in the round."""
FurtherLoss = Callable[[torch.Generator], Tensor]
"""A loss on other data than the site's pairs, added in every step; draws its own batch."""
State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


class DivergedError(FedM2CTError):
    """No validation of a training has had a finite score."""


@dataclass(frozen=True)
class SiteTask:
    """A site's name, protocol and slices; training and validation slices do not overlap.

    A site without normal-dose images has `Measurements`, which hold no truth, in both places.
    `public_validation` may hold slices of public scans, acquired under the site's protocol: a
    patient that the site has not trained on. `public_train` may hold others of them, for a site
    that has no pairs of its own. `images` are the scans and slices that `train` was made from,
    for methods that simulate further acquisitions of them at the site.
    """

    name: str
    protocol: Protocol
    train: Measurements
    validation: Measurements
    public_validation: tuple[PairedData, ...] = ()
    public_train: PairedData | None = None
    images: Sequence[tuple[Scan, Sequence[int]]] = ()

    @property
    def paired(self) -> bool:
        """Whether the site can be trained with its truth."""
        return isinstance(self.train, PairedData)


def learning_rate_factor(step: float, total: int, final: float) -> float:
    """Return the cosine schedule's factor: 1 at the first step, `final` at the last."""
    progress = min(1.0, step / max(1, total - 1))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def make_optimiser(models: Sequence[nn.Module], training: TrainingConfig) -> torch.optim.Adam:
    """Return Adam over the models' trainable parameters (one that several share counts once).

    The sinogram network and the back-projection have a learning rate of their own.
    """
    projection: dict[int, nn.Parameter] = {}
    image: dict[int, nn.Parameter] = {}
    for model in models:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                bound = name.startswith(("sinogram.", "backprojection."))
                (projection if bound else image)[id(parameter)] = parameter
    rates = ((image, training.learning_rate), (projection, training.projection_learning_rate))
    groups = [
        {"params": list(members.values()), "lr": rate, "base": rate}
        for members, rate in rates
        if members
    ]
    return torch.optim.Adam(groups, fused=True)


def channels_last(model: Network) -> Network:
    """Lay convolution weights out channels last, which is faster on CPU and GPU; in place."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's base rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor


def optimiser_state(optimiser: torch.optim.Optimizer) -> State:
    """Return the optimiser's state as named CPU tensors (``<parameter index>.<key>``)."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).detach().cpu().clone()
        for index, entry in state.items()
        for key, value in entry.items()
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restore what `optimiser_state` returned.

    Files do not keep a tensor's layout in memory, and the fused optimiser pairs a parameter with
    its moments in the order of memory: they must be laid out as the parameter is.
    """
    whole = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value.clone()
    optimiser.load_state_dict({**whole, "state": entries})
    for parameter, entry in optimiser.state.items():
        for key, value in entry.items():
            if value.shape == parameter.shape:
                entry[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def part_of(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}


class SiteTrainer:
    """Trains one site's model round by round and keeps its best by validation."""

    def __init__(
        self,
        task: SiteTask,
        model: TSiRadonMAP,
        training: TrainingConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.task, self.training, self.seed, self.device = task, training, seed, device
        self.model = channels_last(model.to(device))
        self.optimiser = make_optimiser([self.model], training)
        self.train_data = Slices(task.train, self.model, device)
        self.validation_data = self.validation_slices()
        self.best_psnr = -math.inf
        self.best: State = {}
        self.privacy: SlicePrivacy | None = None

    def validation_slices(self) -> Slices:
        """Return the slices to validate on: the site's own, then the public ones."""
        parts = [paired(self.task.validation), *self.task.public_validation]
        return Slices(PairedData.joined(parts), self.model, self.device)

    def train_round(
        self,
        round_index: int,
        loss: Loss,
        correct: Correction | None = None,
        steps: int | None = None,
        further: FurtherLoss | None = None,
    ) -> float:
        """Take the round's local steps (rounds count from 1); return the mean loss.

        `correct` may change the gradients of each step. `steps` takes more or fewer than
        `local_steps`; they cover the same stretch of the learning-rate schedule. `further` is
        added to the loss of each step, on data of its own.
        """
        order = self.batches(round_index)
        usual = self.training.local_steps
        count = usual if steps is None else steps
        losses = []
        for index in range(count):
            position = (round_index - 1) * usual + index * usual / count
            within = None if correct is None else partial(correct, index)
            losses.append(self.step(position, order, loss, within, further))
        return float(torch.stack(losses).mean())

    def batches(self, round_index: int) -> torch.Generator:
        """Return the generator that draws the round's batches."""
        return generator(self.seed, self.task.name, "batches", round_index)

    def step(
        self,
        position: float,
        order: torch.Generator,
        loss: Loss,
        correct: Callable[[], None] | None = None,
        further: FurtherLoss | None = None,
    ) -> Tensor:
        """Take one optimiser step, the `position`-th (from 0) of the schedule; return its loss."""
        if self.privacy is None:
            chosen = self.begin_step(position, order)
            value = self._loss_of(chosen, loss)
            if further is not None:
                value = value + further(order)
            return self.end_step(value, correct)
        self._set_position(position)
        self.optimiser.zero_grad(set_to_none=True)
        return self._descend(self._private_backward(self.privacy, loss), correct)

    def begin_step(self, position: float, order: torch.Generator) -> Tensor:
        """Set the rates of the `position`-th step; return the slices of its batch."""
        self._set_position(position)
        return torch.randint(len(self.train_data), (self.training.batch_size,), generator=order)

    def end_step(self, value: Tensor, correct: Callable[[], None] | None = None) -> Tensor:
        """Descend from a loss; return it."""
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        return self._descend(value, correct)

    def _set_position(self, position: float) -> None:
        total = self.training.rounds * self.training.local_steps
        set_rates(self.optimiser, learning_rate_factor(position, total, self.training.final_rate))
        self.model.train()

    def _descend(self, value: Tensor, correct: Callable[[], None] | None) -> Tensor:
        if correct is not None:
            correct()
        self.optimiser.step()
        return value.detach()

    def _loss_of(self, chosen: Tensor, loss: Loss) -> Tensor:
        sinogram, truth, analytical = self.train_data.batch(chosen)
        return loss(self.model(sinogram, analytical), truth)

    def _private_backward(self, privacy: SlicePrivacy, loss: Loss) -> Tensor:
        slices, batch = len(self.train_data), self.training.batch_size
        chosen = privacy.choose(slices, batch)
        losses = [partial(self._loss_of, torch.tensor([index]), loss) for index in chosen]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        return privacy.backward(parameters, losses, slices * sampling_rate(slices, batch))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Weigh private against shared on the validation slices, score, keep the best model.

        Public validation slices count for the weight and for what is best; the scores returned
        are on the site's own slices, so that they can be compared between methods.
        """
        self.model.eval()
        everything = torch.arange(len(self.validation_data))
        sinogram, truth, analytical = self.validation_data.batch(everything)
        result = self.model(sinogram, analytical)
        own, scores = slice(len(self.task.validation)), {}
        if result.private is not None and result.shared is not None:
            if self.model.spec.output == "weighted":
                self.model.private_weight.fill_(best_weight(result.private, result.shared, truth))
            scores["private_weight"] = float(self.model.private_weight)
            scores["val_private_psnr_db"] = validation_psnr(result.private[own], truth[own])
            scores["val_shared_psnr_db"] = validation_psnr(result.shared[own], truth[own])
        scores["val_psnr_db"] = validation_psnr(result.final[own], truth[own])
        self.keep_if_best(validation_psnr(result.final, truth))
        return scores

    def keep_if_best(self, reached: float) -> None:
        """Remember the model if its score is the highest so far."""
        if reached > self.best_psnr:
            self.best_psnr = reached
            self.best = {n: t.detach().cpu().clone() for n, t in self.model.state_dict().items()}

    def chosen(self) -> State:
        """Return the model of the best validation.

        Raises
        ------
        DivergedError
            If no validation has had a score.
        """
        if not self.best:
            raise DivergedError(
                f"site {self.task.name}: the training has diverged, for no validation has a finite "
                "score; lower the learning rate (training.learning_rate, "
                "training.projection_learning_rate)"
            )
        return self.best

    def best_state(self) -> State:
        """Return the best model so far and its score."""
        best = {f"best.{n}": t for n, t in self.best.items()}
        return {**best, "best_psnr": torch.tensor(self.best_psnr, dtype=torch.float64)}

    def state(self) -> State:
        """Return all that the site keeps between rounds: private part, optimiser, best model."""
        return {
            **{f"model.{n}": t for n, t in self.model.private_state().items()},
            **{f"optimiser.{n}": t for n, t in optimiser_state(self.optimiser).items()},
            **self.best_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.load_model_state(state)
        load_optimiser_state(self.optimiser, part_of(state, "optimiser."))

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the model and the best model, but not the optimiser."""
        self.model.load_state_dict(part_of(state, "model."), strict=False)
        self.best = part_of(state, "best.")
        self.best_psnr = float(state["best_psnr"])


def best_weight(private: Tensor, shared: Tensor, truth: Tensor) -> float:
    """Return the w in [0, 1] that minimises |w private + (1 - w) shared - truth|^2."""
    difference = private - shared
    energy = float(difference.square().sum())
    if energy == 0.0:
        return 0.5
    return min(1.0, max(0.0, float((difference * (truth - shared)).sum()) / energy))
