"""A site that also trains the shared network under the other sites' protocols."""

import torch
from torch import Tensor

from fedm2ct.config import RunConfig
from fedm2ct.federation.method import State
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.cross_protocol import CrossProtocol, CrossSlices
from fedm2ct.learning.kept import KeptForRounds
from fedm2ct.learning.trainer import SiteTrainer


class CrossProtocolClient(SiteClient):
    """A `SiteClient` whose steps add the loss on further acquisitions.

    Parameters
    ----------
    trainer, loss_of_round, validate_download, validate_training
        As of `SiteClient`.
    cross
        What is acquired and trained on.
    weight
        The loss's weight.
    """

    def __init__(
        self,
        trainer: SiteTrainer,
        loss_of_round: LossOfRound,
        cross: CrossProtocol,
        weight: float,
        *,
        validate_download: bool,
        validate_training: bool,
    ) -> None:
        super().__init__(
            trainer,
            loss_of_round,
            validate_download=validate_download,
            validate_training=validate_training,
        )
        self.cross, self.weight = cross, weight
        self.acquired = KeptForRounds[CrossSlices](trainer.training)

    def train(self, round_index: int, received: State) -> float:
        """Train for a round, with other protocols' acquisitions beside the site's own."""
        slices = self.acquired.get(round_index, self.cross.acquire)
        network = self.trainer.model.shared
        assert network is not None

        def further(order: torch.Generator) -> Tensor:
            return self.weight * self.cross.loss(slices, network, order)

        return self.trainer.train_round(
            round_index, self.loss_of_round(round_index), further=further
        )


def simulates_protocols(method: str, config: RunConfig) -> bool:
    """Return whether a method's sites must know each other's protocols to simulate them."""
    return method == "fedavg_cross" or (method == "fedm2ct" and config.fedm2ct.cross_protocol > 0)


def crossing_client(
    setup: Setup,
    trainer: SiteTrainer,
    loss_of_round: LossOfRound,
    weight: float,
    *,
    validate_training: bool,
) -> SiteClient:
    """Return a site's client, which trains under other protocols where it can.

    It cannot with a `weight` of 0, without normal-dose images of its own, or where it knows no
    other protocol; then it is a plain `SiteClient`. Either validates each download.
    """
    task, protocols = trainer.task, setup.other_protocols(trainer.task)
    when = {"validate_download": True, "validate_training": validate_training}
    if not (weight and task.images and protocols):
        return SiteClient(trainer, loss_of_round, **when)
    cross = CrossProtocol(
        task.name,
        task.images,
        protocols,
        trainer.model.spec,
        setup.distance,
        setup.config.training.batch_size,
        setup.seed,
        setup.device,
    )
    return CrossProtocolClient(trainer, loss_of_round, cross, weight, **when)
