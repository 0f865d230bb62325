"""MOON: model-contrastive federated learning (Li et al. 2021, arXiv 2103.16257).

In round t, site k trains w from the download w^t on

    L = L_sup + mu L_con,
    L_con = -log [ e^(s_glob / tau) / (e^(s_glob / tau) + e^(s_prev / tau)) ]

with the cosine similarities s_glob of z to z_glob and s_prev of z to z_prev. These represent the
same images: z by the model that is trained, z_glob by w^t, z_prev by the site's own model at the
end of the round before. The server averages, weighted by the sites' numbers of slices.

Shared: the image network. Kept: sinogram network and back-projection, and the last round's image
network. Ours: z is the output of the image network's bottleneck, averaged over pixels (the paper
adds a projection head to a classifier); all three networks see what the site's own sinogram network
and back-projection make of a scan; the first round, in which there is no z_prev, has no contrast.
"""

import torch
from torch import Tensor

from fedm2ct.config import MoonConfig
from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate, without_prefix
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.contrast import Representation, frozen_copy, model_contrast, represented
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import Loss, SiteTrainer
from fedm2ct.model.ts_iradonmap import Reconstruction, SharedNetwork


class ContrastiveClient(SiteClient):
    """Trains with the contrast; `memory` holds the last round's image network."""

    def __init__(
        self, trainer: SiteTrainer, loss_of_round: LossOfRound, options: MoonConfig
    ) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.options = options

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        network = self.trainer.model.shared
        assert network is not None
        loss = self.loss_of_round(round_index)
        if not self.memory:
            mean_loss = self.trainer.train_round(round_index, loss)
        else:
            others = [frozen_copy(network, without_prefix(s)) for s in (received, self.memory)]
            with represented(network.network) as own:
                contrasted = self._contrasted(loss, own, others)
                mean_loss = self.trainer.train_round(round_index, contrasted)
        self.memory = self.trainer.model.shared_state()
        return mean_loss

    def _contrasted(self, loss: Loss, own: Representation, others: list[SharedNetwork]) -> Loss:
        """Return L_sup + mu L_con; `others` are the global and the previous network."""
        condition = self.trainer.model.condition

        @torch.no_grad()
        def representation(network: SharedNetwork, image: Tensor) -> Tensor:
            with represented(network.network) as seen:
                network(image, condition)
            return seen.of_batch

        def total(result: Reconstruction, truth: Tensor) -> Tensor:
            assert result.seen is not None
            towards, away = (representation(network, result.seen) for network in others)
            contrast = model_contrast(own.of_batch, towards, away, self.options.temperature)
            return loss(result, truth) + self.options.mu * contrast

        return total


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, options = supervised_loss(setup.distance), setup.config.method.moon
    return federate(
        setup,
        private_projection(setup),
        lambda trainer: ContrastiveClient(trainer, lambda _: loss, options),
        AveragingServer,
    )
