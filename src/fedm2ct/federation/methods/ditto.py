"""Ditto: a personal model held near the global one (Li et al. 2021, arXiv 2012.04221).

In round t, site k trains two models from the download w^t,

    w_k:  min F_k(w)                                  from w = w^t, as in FedAvg
    v_k:  min F_k(v) + lambda / 2 |v - w^t|^2         from its own v_k of the round before

and sends w_k; the server averages these, weighted by the sites' numbers of slices. v_k, which
starts as w^0, stays: it is the product.

Shared: the image network w. Kept: an image network v of the same kind, and, ours, the sinogram
network and back-projection, which both stand on and which learn from both losses. Both take a step
in each of the round's local steps.
"""

from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.federation.methods.two_networks import two_networks
from fedm2ct.learning.drift import proximal
from fedm2ct.learning.mutual import mutual_loss
from fedm2ct.learning.trainer import SiteTrainer, part_of


class PersonalClient(SiteClient):
    """Trains the shared network, and a private one of its kind that is held near the download."""

    def __init__(
        self, trainer: SiteTrainer, loss_of_round: LossOfRound, lambda_personal: float
    ) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=True)
        self.lambda_personal = lambda_personal
        model = trainer.model
        assert model.private is not None
        self.personal = dict(model.private.named_parameters())
        self._copy_shared()

    def join(self, shared: State) -> None:
        """See `SiteClient.join`; the private network begins as the shared one, as at every site."""
        super().join(shared)
        self._copy_shared()

    def _copy_shared(self) -> None:
        model = self.trainer.model
        assert model.private is not None and model.shared is not None
        model.private.load_state_dict(model.shared.network.state_dict())

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        hold = proximal(self.personal, part_of(received, "shared.body."), self.lambda_personal)
        return self.trainer.train_round(round_index, self.loss_of_round(round_index), hold)


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss = mutual_loss(setup.distance, 0.0, 0.0)
    strength = setup.config.method.ditto.lambda_personal
    return federate(
        setup,
        two_networks(setup, alike=True),
        lambda trainer: PersonalClient(trainer, lambda _: loss, strength),
        AveragingServer,
    )
