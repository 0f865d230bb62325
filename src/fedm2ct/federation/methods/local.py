"""Local only: each site trains TS-iRadonMAP on its own slices and nothing is exchanged.

A site without normal-dose images trains without truth, as `hybrid` says, and without a teacher.
"""

from fedm2ct.federation.method import Aggregate, ClientHalf, ServerHalf, State, Upload
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.federation.methods.unpaired_client import unpaired_client
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer
from fedm2ct.model.ts_iradonmap import ModelSpec


class SilentServer(ServerHalf):
    """Shares nothing."""

    def initial_shared(self) -> State:
        """Return no parameters."""
        return {}

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return no parameters."""
        return Aggregate({})


def build(setup: Setup) -> Halves:
    """Build both halves."""
    model = setup.config.model
    spec = ModelSpec(
        private=model.private,
        private_sees_fbp=model.private_sees_fbp,
        shared=None,
        width=model.width,
        start=model.start,
        learn_projection=model.learn_projection,
        consistency=model.consistency,
    )
    loss = supervised_loss(setup.distance)
    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}

    def client(trainer: SiteTrainer) -> SiteClient:
        if not trainer.task.paired:
            return unpaired_client(trainer, setup.config.hybrid, setup.distance)
        return SiteClient(trainer, lambda _: loss, validate_download=False, validate_training=True)

    clients: dict[str, ClientHalf] = {name: client(t) for name, t in trainers.items()}
    return Halves(SilentServer(), clients, trainers)
