"""FedRep: a shared representation under heads of the sites' own (Collins et al. 2021).

arXiv 2102.07078. In a round, site i first takes tau_h steps on its head with the representation
fixed at the download, then steps on the representation with the head fixed:

    h_i   <- GRD(f_i(h_i, phi^t), h_i)        tau_h times
    phi_i <- GRD(f_i(h_i, phi_i), phi_i)      the rest of the round's steps

and sends phi_i; phi^{t+1} is the plain mean over the sites.

Shared (phi): the image network without its last layer. Kept (h_i): the last layer, and, ours, the
sinogram network and back-projection, which are trained with it. Ours: tau_h is a share of the
round's steps, for the whole round has as many as any other method's.
"""

from dataclasses import replace

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class AlternatingClient(SiteClient):
    """Trains what is private, then what is shared."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, head_steps: int) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=True)
        self.head_steps = head_steps

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        shared = set(self.trainer.model.shared_parameters())

        def fix_the_other(index: int) -> None:
            head_s_turn = index < self.head_steps
            for name, parameter in self.trainer.model.named_parameters():
                if (name in shared) == head_s_turn:
                    parameter.grad = None  # an optimiser leaves a parameter without one alone

        loss = self.loss_of_round(round_index)
        return self.trainer.train_round(round_index, loss, fix_the_other)


def head_steps(share: float, steps: int) -> int:
    """Return how many of a round's steps are the head's; both parts get one at least.

    Raises
    ------
    FedM2CTError
        When a round has a single step.
    """
    if steps < 2:
        raise FedM2CTError(
            "fedrep trains in turns, but a round has a single step; set field "
            "'training.local_steps' to 2 or more"
        )
    return max(1, min(steps - 1, round(share * steps)))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    config, loss = setup.config, supervised_loss(setup.distance)
    steps = head_steps(config.method.fedrep.head_share, config.training.local_steps)
    return federate(
        setup,
        replace(private_projection(setup), kept="head"),
        lambda trainer: AlternatingClient(trainer, lambda _: loss, steps),
        MeanServer,
    )
