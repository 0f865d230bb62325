"""FedMRI: a shared encoder under decoders of the sites' own (Feng et al. 2022, arXiv 2112.05752).

doi 10.1109/TMI.2022.3202106. In round t, site k trains the encoder w from the download w^t, with
its own decoder, on

    L = L_rec + mu |w - w^t|_1 / |w - w_k|_1

the weighted contrastive regularisation: towards the server's encoder, away from w_k, the site's own
at the end of the round before. It sends w; the server takes the plain mean.

Shared: the image network up to its bottleneck. Kept: what comes after it, and, ours, the sinogram
network and back-projection; and w_k. The form of the term is that of the published code, in which
the denominator sums over the encoders of *all* sites; ours is the site's own only, for the others'
are not its to see. Ours too: mu, which we do not have from the paper. Left out: the second copy of
the scheme in frequency space. The first round, in which there is no w_k, has no contrast.
"""

from dataclasses import replace

from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.drift import weighted_contrast
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class EncoderClient(SiteClient):
    """Trains with the regularisation; `memory` holds the encoder of the round before."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, mu: float) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=True)
        self.mu = mu

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        model, loss = self.trainer.model, self.loss_of_round(round_index)
        term = None
        if self.memory:
            term = weighted_contrast(model.shared_parameters(), received, self.memory, self.mu)
        mean_loss = self.trainer.train_round(round_index, loss, term)
        self.memory = model.shared_state()
        return mean_loss


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, mu = supervised_loss(setup.distance), setup.config.method.fedmri.mu
    return federate(
        setup,
        replace(private_projection(setup), kept="decoder"),
        lambda trainer: EncoderClient(trainer, lambda _: loss, mu),
        MeanServer,
    )
