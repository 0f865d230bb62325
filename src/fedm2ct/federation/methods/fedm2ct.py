"""FedM2CT: mutual learning at the sites (CPML), a metamodel at the server (FMDL).

Wang et al. 2025, doi 10.34133/cbsystems.0376. The round: each site trains its private and the
shared network, which teach each other; the shared one, prompted by the protocol, is uploaded and
averaged; the server trains a metamodel from the average on its own pairs and fuses both with an
alpha found by line search.

A site without normal-dose images trains its private part without truth, as `hybrid` says, with the
shared network as one of its teachers; it sends nothing.

With ``cross_protocol`` a site also trains the shared network on its own normal-dose images as the
other sites' scanners would acquire them (`fedm2ct.learning.cross_protocol`): protocols travel then,
images do not.

With ``exchange = false`` each site trains the same two networks and nothing travels: the ablation
that separates what the federation adds from what having two networks adds.
"""

from dataclasses import replace
from functools import partial

from fedm2ct.config import RunConfig
from fedm2ct.data.simulate import PairedData
from fedm2ct.federation.method import Aggregate, ClientHalf, ServerHalf, State, Upload
from fedm2ct.federation.methods.cross_protocol_client import crossing_client
from fedm2ct.federation.methods.local import SilentServer
from fedm2ct.federation.methods.public import held_out, public_training
from fedm2ct.federation.methods.setup import Halves, Setup, with_prefix, without_prefix
from fedm2ct.federation.methods.site_client import UnconnectedClient
from fedm2ct.federation.methods.unpaired_client import unpaired_client
from fedm2ct.learning.meta_set import ContributedMetaSet, SimulatedMetaSet
from fedm2ct.learning.metamodel import Metamodel, MetaSchedule, MetaSource
from fedm2ct.learning.mutual import mutual_loss, ramp
from fedm2ct.learning.slices import paired
from fedm2ct.learning.trainer import Loss, SiteTask, SiteTrainer
from fedm2ct.model.ts_iradonmap import ModelSpec


class MetaServer(ServerHalf):
    """Averages, trains the metamodel from the average, fuses both."""

    takes_average = True

    def __init__(self, initial: State, metamodel: Metamodel | None, alpha: float | None) -> None:
        self.initial, self.metamodel, self.alpha = initial, metamodel, alpha

    def initial_shared(self) -> State:
        """See `ServerHalf.initial_shared`."""
        return self.initial

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return S_next; the log gets alpha."""
        averaged = self.average(uploads)
        if self.metamodel is None:
            return Aggregate(averaged)
        start = without_prefix(averaged)
        meta = self.metamodel.train(start, round_index)
        fused, alpha = self.metamodel.fuse(start, meta, self.alpha)
        return Aggregate(with_prefix(fused), {"alpha": alpha})

    def state(self) -> State:
        """Return the metamodel's optimiser and the server's twins."""
        return {} if self.metamodel is None else self.metamodel.state()

    def load_state(self, state: State) -> None:
        """See `ServerHalf.load_state`."""
        if self.metamodel is not None:
            self.metamodel.load_state(state)


def _source(setup: Setup) -> MetaSource | None:
    config = setup.config.meta
    if config.source == "none" or setup.config.fedm2ct.meta_steps == 0:
        return None
    if config.source == "simulated":
        protocols = {task.name: task.protocol for task in setup.tasks}
        return SimulatedMetaSet(setup.public, protocols, config.held_out, setup.seed)
    trained = {task.name: paired(task.train) for task in setup.training_tasks}
    validated = {task.name: paired(task.validation) for task in setup.training_tasks}
    return ContributedMetaSet(trained, validated, config.slices, config.held_out)


def build_metamodel(setup: Setup, spec: ModelSpec) -> Metamodel | None:
    """Build the server's metamodel for the sites' model; None where there is no meta-set."""
    source = _source(setup)
    if source is None:
        return None
    learned = spec.learn_projection and spec.shared_input == "learned"
    twin = replace(spec, private=None, learn_projection=learned)
    return Metamodel(
        setup.shared_network(spec),
        {task.name: setup.model(task, twin, "twin") for task in setup.tasks},
        source,
        MetaSchedule(setup.config.fedm2ct.meta_steps, setup.config.training),
        setup.distance,
        setup.seed,
        setup.device,
    )


def _with_public(setup: Setup, task: SiteTask) -> SiteTask:
    """Let a site also validate, or train too, on public slices.

    It validates on those that the server holds out, and with `public_training` it trains on the
    others, on which the server trains, beside its own.

    On slices of its own patients alone a site trusts its private network too much, which knows
    these patients. The public scans are no secret: the server sends the slices, the site simulates
    its own acquisition of them. A site without pairs trains on them where `hybrid.loss` says so.
    """
    if not setup.public:
        return task
    if setup.config.fedm2ct.public_validation:
        task = replace(task, public_validation=(held_out(setup, task),))
    if task.paired and setup.config.fedm2ct.public_training:
        both = PairedData.joined([paired(task.train), public_training(setup, task)])
        task = replace(task, train=both)
    if not task.paired and "public" in setup.config.hybrid.loss:
        task = replace(task, public_train=public_training(setup, task))
    return task


def model_spec(config: RunConfig) -> ModelSpec:
    """Return a site's networks under a configuration."""
    model, own = config.model, config.fedm2ct
    return ModelSpec(
        private=model.private,
        private_sees_fbp=model.private_sees_fbp,
        shared=model.shared,
        width=model.width,
        start=model.start,
        prompted=own.prompted,
        coupling=own.coupling,
        learn_projection=model.learn_projection,
        cascade_from=own.cascade_from,
        shared_input=own.shared_input,
        consistency=model.consistency,
    )


def build(setup: Setup) -> Halves:
    """Build both halves."""
    own, spec = setup.config.fedm2ct, model_spec(setup.config)

    def loss_of_round(round_index: int) -> Loss:
        factor = ramp(round_index, own.ramp_rounds)
        return mutual_loss(setup.distance, factor * own.lambda_private, factor * own.lambda_shared)

    tasks = [_with_public(setup, task) for task in setup.tasks]
    trainers = {task.name: setup.trainer(task, spec) for task in tasks}
    initial = setup.initial_shared(spec)

    def client(trainer: SiteTrainer) -> ClientHalf:
        if not trainer.task.paired:
            teaches = partial(ramp, ramp_rounds=own.ramp_rounds) if own.exchange else None
            return unpaired_client(trainer, setup.config.hybrid, setup.distance, teaches)
        if not own.exchange:
            return UnconnectedClient(trainer, loss_of_round, initial)
        return crossing_client(
            setup, trainer, loss_of_round, own.cross_protocol, validate_training=True
        )

    clients = {name: client(trainer) for name, trainer in trainers.items()}
    if not own.exchange:
        return Halves(SilentServer(), clients, trainers)
    metamodel = None if own.alpha == 0 else build_metamodel(setup, spec)
    server = MetaServer(initial, metamodel, own.alpha)
    return Halves(server, clients, trainers)
