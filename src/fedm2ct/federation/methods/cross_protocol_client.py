"""A site that also trains the shared network under the other sites' protocols."""

from fedm2ct.federation.method import State
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.cross_protocol import CrossProtocol
from fedm2ct.learning.trainer import SiteTrainer


class CrossProtocolClient(SiteClient):
    """A `SiteClient` whose steps add the loss on the round's further acquisitions.

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

    def train(self, round_index: int, received: State) -> float:
        """Train for a round, with the round's acquisitions beside the site's own."""
        slices, network = self.cross.acquire(round_index), self.trainer.model.shared
        assert network is not None
        self.trainer.further = lambda order: self.weight * self.cross.loss(slices, network, order)
        try:
            return super().train(round_index, received)
        finally:
            self.trainer.further = None


def cross_protocol(setup: Setup, trainer: SiteTrainer) -> CrossProtocol | None:
    """Return what a site can train on beside its own pairs.

    None where it has no normal-dose images of its own or knows no other protocol.
    """
    task, protocols = trainer.task, setup.other_protocols(trainer.task)
    if not (task.images and protocols):
        return None
    return CrossProtocol(
        task.name,
        task.images,
        protocols,
        trainer.model.spec,
        setup.distance,
        setup.config.training.batch_size,
        setup.seed,
        setup.device,
    )
