"""What a method is built from: the sites' tasks, the server's public scans, configuration, seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fedm2ct.config import RunConfig
from fedm2ct.data.scans import Scan
from fedm2ct.federation.method import ClientHalf, ServerHalf, State
from fedm2ct.federation.methods.unpaired_client import ReceivingClient
from fedm2ct.learning.losses import DISTANCES, Distance
from fedm2ct.learning.seeds import seeded_initialisation
from fedm2ct.learning.trainer import Network, SiteTask, SiteTrainer
from fedm2ct.learning.unpaired_trainer import UnpairedTrainer
from fedm2ct.model.precision import ReducedPrecision
from fedm2ct.model.prompt import CONDITIONS
from fedm2ct.model.ts_iradonmap import (
    SHARED_PREFIX,
    ModelSpec,
    SharedNetwork,
    TSiRadonMAP,
    shared_inputs,
)
from fedm2ct.physics.protocol_files import protocol_text, unnamed
from fedm2ct.physics.protocols import Protocol


@dataclass(frozen=True)
class Setup:
    """Everything that a method's two halves are built from.

    `elsewhere` are protocols of sites whose tasks are not here, where methods may know them.
    """

    config: RunConfig
    tasks: Sequence[SiteTask]
    seed: int
    public: Sequence[tuple[Scan, Sequence[int]]] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    elsewhere: Sequence[Protocol] = ()

    @property
    def training_tasks(self) -> list[SiteTask]:
        """The tasks of the sites that train on pairs and send what they have learned."""
        return [task for task in self.tasks if task.paired]

    def other_protocols(self, task: SiteTask) -> list[Protocol]:
        """Return the protocols of the federation that are not a site's own, each once, unnamed.

        Their order does not depend on which of them belong to the tasks.
        """
        known = [unnamed(p) for p in (*(t.protocol for t in self.tasks), *self.elsewhere)]
        by_text = {protocol_text(p): p for p in known}
        own = unnamed(task.protocol)
        return [by_text[text] for text in sorted(by_text) if by_text[text] != own]

    @property
    def distance(self) -> Distance:
        """The supervised distance."""
        return DISTANCES[self.config.training.loss]

    def model(self, task: SiteTask, spec: ModelSpec, role: str = "site") -> TSiRadonMAP:
        """Build a model of a site's protocol; its weights depend on seed, site and role only."""
        with seeded_initialisation(self.seed, "weights", task.name, role):
            return self._at_precision(TSiRadonMAP(task.protocol, spec))

    def _at_precision(self, model: Network) -> Network:
        for part in model.modules():
            if isinstance(part, ReducedPrecision):
                part.training_dtype = getattr(torch, self.config.training.precision)
        return model

    def trainer(self, task: SiteTask, spec: ModelSpec) -> SiteTrainer:
        """Build a site's trainer."""
        model = self.model(task, spec)
        kind = SiteTrainer if task.paired else UnpairedTrainer
        return kind(task, model, self.config.training, self.seed, self.device)

    def shared_network(self, spec: ModelSpec) -> SharedNetwork:
        """Build the shared network; its weights depend on the seed only."""
        assert spec.shared is not None
        condition = CONDITIONS[spec.condition](self.tasks[0].protocol)
        features = len(condition) if spec.prompted else None
        with seeded_initialisation(self.seed, "weights", "shared"):
            network = SharedNetwork(
                spec.shared, spec.width, features, spec.kept, shared_inputs(spec)
            )
        return self._at_precision(network)

    def initial_shared(self, spec: ModelSpec) -> State:
        """Return the shared parameters of round 1, under the names that sites use."""
        network = self.shared_network(spec)
        state = network.state_dict()
        return with_prefix({n: t for n, t in state.items() if not network.keeps(n)})


def with_prefix(state: State) -> State:
    """Return copies of a shared network's parameters under the names that sites use."""
    return {f"{SHARED_PREFIX}{n}": t.detach().cpu().clone() for n, t in state.items()}


def without_prefix(state: State) -> State:
    """Undo `with_prefix`."""
    return {n.removeprefix(SHARED_PREFIX): t for n, t in state.items()}


@dataclass(frozen=True)
class Halves:
    """The two halves of a method, built for one run; `sites` maps each site to its trainer."""

    server: ServerHalf
    clients: dict[str, ClientHalf]
    trainers: dict[str, SiteTrainer]


def federate(
    setup: Setup,
    spec: ModelSpec,
    client: Callable[[SiteTrainer], ClientHalf],
    server: Callable[[State], ServerHalf],
) -> Halves:
    """Build both halves: a client from each site's trainer, a server from the initial parameters.

    What a site keeps of the shared network starts alike everywhere, as what is sent does. A site
    without normal-dose images only receives.

    Parameters
    ----------
    setup
        What the method is built from.
    spec
        The sites' model; it has a shared network.
    client, server
        The halves' constructors; the client's is for sites that train on pairs.
    """
    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}
    whole = setup.shared_network(spec).state_dict()
    for trainer in trainers.values():
        assert trainer.model.shared is not None
        trainer.model.shared.load_state_dict(whole)
    clients = {
        name: client(trainer) if trainer.task.paired else ReceivingClient(trainer)
        for name, trainer in trainers.items()
    }
    return Halves(server(setup.initial_shared(spec)), clients, trainers)
