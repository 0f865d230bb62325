"""FedAvg: average the image network over all sites (McMahan et al. 2017, arXiv 1602.05629).

Everything that is trained is averaged: an image network, neither prompted nor private, on FBP.
What is bound to a site's geometry (sinogram network, back-projection weights) has another shape at
each site, cannot be averaged and stays analytical; `fedper` is FedAvg with that part private.
"""

from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload, weighted_average
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.model.ts_iradonmap import ModelSpec


class AveragingServer(ServerHalf):
    """Averages, weighted by the sites' numbers of slices."""

    def __init__(self, initial: State) -> None:
        self.initial = initial

    def initial_shared(self) -> State:
        """See `ServerHalf.initial_shared`."""
        return self.initial

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return the weighted average of the uploads."""
        return Aggregate(weighted_average(uploads))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_averaging(setup, learn_projection=False)


def build_averaging(setup: Setup, *, learn_projection: bool) -> Halves:
    """Build both halves, with or without a private sinogram network and back-projection."""
    spec = ModelSpec(
        private=None,
        shared=setup.config.model.shared,
        width=setup.config.model.width,
        prompted=False,
        learn_projection=learn_projection,
    )
    loss = supervised_loss(setup.distance)
    trainers = {task.name: setup.trainer(task, spec) for task in setup.tasks}
    clients = {
        name: SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=False)
        for name, trainer in trainers.items()
    }
    return Halves(AveragingServer(setup.initial_shared(spec)), dict(clients), trainers)
