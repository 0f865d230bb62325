"""Pooled and prompted: one image network, trained on all sites' slices in one place.

Not a federated method but the reference from above: what the sites could have if their scans might
be pooled. It runs as a federation of one member, so that checkpoints and resuming are the same.
Its image network takes as many steps as all sites together. A site without normal-dose images has
nothing to give to the pool and uses the network that comes of it.
"""

from collections.abc import Mapping

import torch

from fedm2ct.federation.method import ClientHalf, State, Upload
from fedm2ct.federation.methods.local import SilentServer
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.storage import state_fingerprint
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import (
    Loss,
    SiteTrainer,
    load_optimiser_state,
    make_optimiser,
    optimiser_state,
    part_of,
)
from fedm2ct.model.ts_iradonmap import ModelSpec

MEMBER = "pool"


class PooledClient(ClientHalf):
    """Trains the common network on one site's batch after the other."""

    def __init__(self, trainers: Mapping[str, SiteTrainer], loss: Loss) -> None:
        self.trainers, self.loss = dict(trainers), loss
        self.training_at = {n: t for n, t in trainers.items() if t.task.paired}
        first = next(iter(self.trainers.values()))
        self.training = first.training
        for trainer in self.trainers.values():
            trainer.model.shared = first.model.shared
        self.optimiser = make_optimiser([t.model for t in trainers.values()], self.training)
        for trainer in self.trainers.values():
            trainer.optimiser = self.optimiser

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round; every site gives `local_steps` batches."""
        orders = {name: t.batches(round_index) for name, t in self.trainers.items()}
        first = (round_index - 1) * self.training.local_steps
        losses = [
            trainer.step(step, orders[name], self.loss)
            for step in range(first, first + self.training.local_steps)
            for name, trainer in self.training_at.items()
        ]
        metrics = {"loss": float(torch.stack(losses).mean())}
        scores = {name: trainer.validate() for name, trainer in self.trainers.items()}
        psnr = {name: scores[name]["val_psnr_db"] for name in self.training_at}
        metrics["val_psnr_db"] = sum(psnr.values()) / len(psnr)
        metrics.update({f"val_psnr_db/{name}": value for name, value in psnr.items()})
        samples = sum(len(trainer.train_data) for trainer in self.training_at.values())
        return Upload(MEMBER, {}, samples, metrics)

    def finish(self, shared: State) -> Mapping[str, float]:
        """Return the best validation scores."""
        return {f"best_val_psnr_db/{n}": t.best_psnr for n, t in self.training_at.items()}

    def private_state(self) -> State:
        """See `ClientHalf.private_state`."""
        state = {f"optimiser.{n}": t for n, t in optimiser_state(self.optimiser).items()}
        for name, trainer in self.trainers.items():
            whole = {**trainer.model.private_state(), **trainer.model.shared_state()}
            state.update({f"{name}/model.{n}": t for n, t in whole.items()})
            state.update({f"{name}/{n}": t for n, t in trainer.best_state().items()})
        return state

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`."""
        load_optimiser_state(self.optimiser, part_of(state, "optimiser."))
        for name, trainer in self.trainers.items():
            part = {
                n.removeprefix(f"{name}/"): t for n, t in state.items() if n.startswith(f"{name}/")
            }
            trainer.load_model_state(part)

    @property
    def fingerprint(self) -> str:
        """See `ClientHalf.fingerprint`."""
        states = [t.model.private_state() for t in self.trainers.values()]
        return state_fingerprint(
            {f"{i}.{n}": t for i, s in enumerate(states) for n, t in s.items()}
        )


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_pooled(setup, prompted=True)


def build_pooled(setup: Setup, *, prompted: bool) -> Halves:
    """Build both halves, with a prompted network or a plain one."""
    model = setup.config.model
    spec = ModelSpec(
        private=None,
        shared=model.shared,
        width=model.width,
        start=model.start,
        prompted=prompted,
        learn_projection=model.learn_projection,
    )
    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}
    initial = setup.initial_shared(spec)
    for trainer in trainers.values():
        trainer.model.load_shared(initial)
    client = PooledClient(trainers, supervised_loss(setup.distance))
    return Halves(SilentServer(), {MEMBER: client}, trainers)
