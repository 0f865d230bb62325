"""FedM2CT: mutual learning at the sites (CPML), a metamodel at the server (FMDL).

Wang et al. 2025, doi 10.34133/cbsystems.0376. The round: each site trains its private and the
shared network, which teach each other; the shared one, prompted by the protocol, is uploaded and
averaged; the server trains a metamodel from the average on its own pairs and fuses both with an
alpha found by line search.
"""

from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload, weighted_average
from fedm2ct.federation.methods.setup import Halves, Setup, with_prefix, without_prefix
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.meta_set import ContributedMetaSet, SimulatedMetaSet
from fedm2ct.learning.metamodel import Metamodel, MetaSchedule, MetaSource
from fedm2ct.learning.mutual import mutual_loss, ramp
from fedm2ct.learning.trainer import Loss, load_optimiser_state, optimiser_state
from fedm2ct.model.ts_iradonmap import ModelSpec


class MetaServer(ServerHalf):
    """Averages, trains the metamodel from the average, fuses both."""

    def __init__(self, initial: State, metamodel: Metamodel | None, alpha: float | None) -> None:
        self.initial, self.metamodel, self.alpha = initial, metamodel, alpha

    def initial_shared(self) -> State:
        """See `ServerHalf.initial_shared`."""
        return self.initial

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return S_next; the log gets alpha."""
        averaged = weighted_average(uploads)
        if self.metamodel is None:
            return Aggregate(averaged)
        start = without_prefix(averaged)
        meta = self.metamodel.train(start, round_index)
        fused, alpha = self.metamodel.fuse(start, meta, self.alpha)
        return Aggregate(with_prefix(fused), {"alpha": alpha})

    def state(self) -> State:
        """Return the metamodel's optimiser state."""
        return {} if self.metamodel is None else optimiser_state(self.metamodel.optimiser)

    def load_state(self, state: State) -> None:
        """See `ServerHalf.load_state`."""
        if self.metamodel is not None:
            load_optimiser_state(self.metamodel.optimiser, state)


def _source(setup: Setup) -> MetaSource | None:
    config = setup.config.meta
    if config.source == "none" or setup.config.fedm2ct.meta_steps == 0:
        return None
    if config.source == "simulated":
        protocols = {task.name: task.protocol for task in setup.tasks}
        return SimulatedMetaSet(setup.public, protocols, config.held_out, setup.seed)
    given = {}
    for task in setup.tasks:
        data = task.train
        given[task.name] = (
            task.protocol,
            data.projections[: config.slices],
            data.truth[: config.slices],
        )
    return ContributedMetaSet(given, config.held_out)


def _metamodel(setup: Setup, spec: ModelSpec) -> Metamodel | None:
    source, training = _source(setup), setup.config.training
    if source is None:
        return None
    schedule = MetaSchedule(
        rounds=training.rounds,
        steps=setup.config.fedm2ct.meta_steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        final_rate=training.final_rate,
    )
    network = setup.shared_network(spec)
    return Metamodel(network, source, schedule, setup.distance, setup.seed, setup.device)


def build(setup: Setup) -> Halves:
    """Build both halves."""
    model, own = setup.config.model, setup.config.fedm2ct
    spec = ModelSpec(
        private=model.private,
        shared=model.shared,
        width=model.width,
        prompted=own.prompted,
        coupling=own.coupling,
        learn_projection=model.learn_projection,
        shared_input=own.shared_input,
        consistency=model.consistency,
    )

    def loss_of_round(round_index: int) -> Loss:
        factor = ramp(round_index, own.ramp_rounds)
        return mutual_loss(setup.distance, factor * own.lambda_private, factor * own.lambda_shared)

    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}
    clients = {
        name: SiteClient(trainer, loss_of_round, validate_download=True, validate_training=True)
        for name, trainer in trainers.items()
    }
    server = MetaServer(setup.initial_shared(spec), _metamodel(setup, spec), own.alpha)
    return Halves(server, dict(clients), trainers)
