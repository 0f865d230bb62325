"""FedDyn: dynamic regularisation aligns the sites' optima (Acar et al. 2021, arXiv 2111.04263).

In round t, site k (with its own gradient state g_k, zero at the start) trains

    w_k = argmin_w  L_k(w) - <g_k, w> + alpha / 2 |w - w^t|^2
    g_k <- g_k - alpha (w_k - w^t)

and uploads w_k only. With P the sites that took part, of m, the server (with h, zero at the start)
sets

    h       <- h - alpha / m sum_{k in P} (w_k - w^t)
    w^{t+1} =  1 / |P| sum_{k in P} w_k - h / alpha

At a fixed point every site's gradient is cancelled by its g_k, so the sites agree on w although
their own losses would not.

Shared: the image network, which both terms concern. Kept: sinogram network and back-projection, and
g_k; it goes back to what it was where the upload did not count (`counted`). Sites count alike, as
in the paper. Ours: the argmin is approached by the round's local steps of Adam.
"""

import torch

from fedm2ct.federation.method import Aggregate, State, Upload
from fedm2ct.federation.methods.counted import CountedClient
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound
from fedm2ct.learning.drift import linear, proximal, together
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class DynamicClient(CountedClient):
    """Trains on the dynamically regularised loss; `memory` holds g_k under parameters' names."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, alpha: float) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.alpha = alpha
        self.memory = {n: torch.zeros_like(t) for n, t in trainer.model.shared_state().items()}

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        model = self.trainer.model
        parameters = model.shared_parameters()
        terms = together(
            linear(parameters, {name: -own for name, own in self.memory.items()}),
            proximal(parameters, received, self.alpha),
        )
        mean_loss = self.trainer.train_round(round_index, self.loss_of_round(round_index), terms)
        reached = model.shared_state()
        self.memory = {
            name: own - self.alpha * (reached[name] - received[name])
            for name, own in self.memory.items()
        }
        return mean_loss


class DynamicServer(AveragingServer):
    """Averages, corrected by what all sites have drifted so far."""

    takes_average = False  # by equations of its own

    def __init__(self, initial: State, sites: int, alpha: float) -> None:
        super().__init__(initial)
        self.sites, self.alpha = sites, alpha
        self.drift = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in initial.items()}

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return mean w_k - h / alpha."""
        fused = {}
        for name, start in shared.items():
            sent = torch.stack([upload.shared[name].double() for upload in uploads])
            moved = (sent - start.double()).sum(0)
            self.drift[name] = self.drift[name] - self.alpha / self.sites * moved
            fused[name] = (sent.mean(0) - self.drift[name] / self.alpha).to(start.dtype)
        return Aggregate(fused)

    def state(self) -> State:
        """Return h."""
        return dict(self.drift)

    def load_state(self, state: State) -> None:
        """See `ServerHalf.load_state`."""
        self.drift = {name: state[name].clone() for name in self.drift}


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, alpha = supervised_loss(setup.distance), setup.config.method.feddyn.alpha
    return federate(
        setup,
        private_projection(setup),
        lambda trainer: DynamicClient(trainer, lambda _: loss, alpha),
        lambda start: DynamicServer(start, len(setup.training_tasks), alpha),
    )
