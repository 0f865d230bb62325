"""FedProx: FedAvg whose sites are held near the download (Li et al. 2020, arXiv 1812.06127).

In round t, site k takes its local steps on

    h_k(w; w^t) = F_k(w) + mu / 2 |w - w^t|^2

from w = w^t, the download; the server averages, weighted by the sites' numbers of slices.

Shared: the image network, which the term holds. Kept: sinogram network and back-projection, which
it leaves alone (ours: the paper's models are shared whole). Sites that take fewer steps than others
(the paper's gamma-inexact solutions) do not occur here.
"""

from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.drift import proximal
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class ProximalClient(SiteClient):
    """Trains on F_k(w) + mu / 2 |w - w^t|^2."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, mu: float) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.mu = mu

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        hold = proximal(self.trainer.model.shared_parameters(), received, self.mu)
        return self.trainer.train_round(round_index, self.loss_of_round(round_index), hold)


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, mu = supervised_loss(setup.distance), setup.config.method.fedprox.mu
    return federate(
        setup,
        private_projection(setup),
        lambda trainer: ProximalClient(trainer, lambda _: loss, mu),
        AveragingServer,
    )
