"""Local only: each site trains TS-iRadonMAP on its own slices and nothing is exchanged."""

from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
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
        shared=None,
        width=model.width,
        learn_projection=model.learn_projection,
        consistency=model.consistency,
    )
    loss = supervised_loss(setup.distance)
    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}
    clients = {
        name: SiteClient(trainer, lambda _: loss, validate_download=False, validate_training=True)
        for name, trainer in trainers.items()
    }
    return Halves(SilentServer(), dict(clients), trainers)
