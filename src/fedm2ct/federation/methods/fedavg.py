"""FedAvg: average the image network over all sites (McMahan et al. 2017, arXiv 1602.05629).

Everything that is trained is averaged: an image network, neither prompted nor private, on FBP.
What is bound to a site's geometry (sinogram network, back-projection weights) has another shape at
each site, cannot be averaged and stays analytical; `fedper` is FedAvg with that part private.
"""

from dataclasses import replace

from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer
from fedm2ct.model.ts_iradonmap import ModelSpec


class AveragingServer(ServerHalf):
    """Averages, weighted by the sites' numbers of slices."""

    takes_average = True

    def __init__(self, initial: State) -> None:
        self.initial = initial

    def initial_shared(self) -> State:
        """See `ServerHalf.initial_shared`."""
        return self.initial

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return the weighted average of the uploads."""
        return Aggregate(self.average(uploads))


class MeanServer(AveragingServer):
    """Averages; every site counts alike."""

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return the mean of the uploads."""
        return Aggregate(self.average([replace(upload, samples=1) for upload in uploads]))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_averaging(setup, image_network(setup, learn_projection=False))


def image_network(setup: Setup, *, learn_projection: bool) -> ModelSpec:
    """Return a model of one image network, which is shared and not prompted.

    It follows FBP, or a private sinogram network and back-projection that are learned.
    """
    return ModelSpec(
        private=None,
        shared=setup.config.model.shared,
        width=setup.config.model.width,
        start=setup.config.model.start,
        prompted=False,
        learn_projection=learn_projection,
    )


def build_averaging(setup: Setup, spec: ModelSpec) -> Halves:
    """Build both halves for a model whose shared part is trained and averaged."""
    loss = supervised_loss(setup.distance)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=False)

    return federate(setup, spec, client, AveragingServer)
