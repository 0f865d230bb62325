"""FedAvg, then fine-tuning at each site: the plainest personalisation.

It has no paper of its own; Wang et al. 2019 (arXiv 1910.10252) evaluate it. For the first rounds
all is as in `fedper`; in the last ones each site trains the final global model on, on its own
slices, and nothing more is averaged.

Shared: the image network, until then. Kept: sinogram network and back-projection; from then on all
of the site's model. Ours: fine-tuning takes a share of the rounds, not rounds of its own, so that
the number of optimiser steps is everybody's; the learning rate goes on along the same schedule. In
these rounds a site sends back what it has received, so that the global model stays, but for noise
where ``[privacy]`` adds some to every upload.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class TuningClient(SiteClient):
    """Takes part for some rounds, then goes on alone; `memory` then holds its own network."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, federated: int) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.federated = federated

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train from the download, or, once fine-tuning has begun, from the site's own network."""
        alone = round_index > self.federated
        self.validate_training = alone
        self.validate_download = not self.memory
        upload = super().fit(round_index, self.memory or shared)
        if not alone:
            return upload
        self.memory = self.trainer.model.shared_state()
        return replace(upload, shared=shared)

    def finish(self, shared: State) -> Mapping[str, float]:
        """Return the best validation score; the site's network is its own."""
        self.validate_download = not self.memory
        return super().finish(self.memory or shared)


def federated_rounds(share: float, rounds: int) -> int:
    """Return after how many rounds fine-tuning begins; it gets one at least, if there are two."""
    return max(1, min(rounds - 1, round((1 - share) * rounds)))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    config, loss = setup.config, supervised_loss(setup.distance)
    federated = federated_rounds(config.method.finetuned.share, config.training.rounds)
    return federate(
        setup,
        private_projection(setup),
        lambda trainer: TuningClient(trainer, lambda _: loss, federated),
        AveragingServer,
    )
