"""FedNova: updates are normalised by the steps that they took (Wang et al. 2020, arXiv 2007.07481).

In round t, site k takes tau_k local steps from w^t to w_k. With p_k = n_k / sum_j n_j the server
sets

    d_k     = (w^t - w_k) / tau_k                            the site's step, on average
    w^{t+1} = w^t - tau_eff sum_k p_k d_k,                   tau_eff = sum_k p_k tau_k

so that a site with more steps does not pull the average towards its own optimum. This is the
paper's case ||a_k||_1 = tau_k (no momentum in the accumulation vector); that Adam's steps are
counted so, too, is ours.

Sites take different numbers of steps because they have different numbers of slices: the same number
of epochs each, tau_k proportional to n_k, such that all sites together take as many steps as with
any other method. Where sites have equally many slices FedNova is FedPer, by its own equations.

Shared: the image network; tau_k travels up beside it. Kept: sinogram network and back-projection.
"""

import torch

from fedm2ct.federation.method import Aggregate, State, Upload
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer

STEPS = "steps.taken"


class CountingClient(SiteClient):
    """Takes its own number of steps and says how many."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, steps: int) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.steps = steps

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        loss = self.loss_of_round(round_index)
        return self.trainer.train_round(round_index, loss, steps=self.steps)

    def sent(self) -> State:
        """Return the shared parameters and the number of steps."""
        return {**super().sent(), STEPS: torch.tensor(self.steps)}


class NormalisingServer(AveragingServer):
    """Averages the sites' mean steps; refuses a number of steps that no site can have taken."""

    takes_average = False  # by equations of its own

    def __init__(self, initial: State, most_steps: int) -> None:
        super().__init__(initial)
        self.most_steps = most_steps

    def upload_like(self, shared: State) -> State:
        """See `ServerHalf.upload_like`."""
        return {**shared, STEPS: torch.tensor(0)}

    def fault(self, upload: Upload) -> str | None:
        """See `ServerHalf.fault`."""
        steps = int(upload.shared[STEPS])
        if not 1 <= steps <= self.most_steps:
            return f"its number of local steps is {steps}, outside 1..{self.most_steps}"
        return None

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return w^t - tau_eff sum_k p_k d_k; the log gets tau_eff."""
        total = sum(upload.samples for upload in uploads)
        shares = [upload.samples / total for upload in uploads]
        steps = [int(upload.shared[STEPS]) for upload in uploads]
        effective = sum(p * tau for p, tau in zip(shares, steps, strict=True))
        fused = {}
        for name, start in shared.items():
            change = torch.zeros_like(start, dtype=torch.float64)
            for upload, p, tau in zip(uploads, shares, steps, strict=True):
                change += (upload.shared[name].double() - start.double()) * (p * effective / tau)
            fused[name] = (start.double() + change).to(start.dtype)
        return Aggregate(fused, {"effective_steps": effective})


def steps_by_slices(slices: dict[str, int], mean_steps: int) -> dict[str, int]:
    """Return each site's number of steps: in proportion to its slices, `mean_steps` on average."""
    total = mean_steps * len(slices)
    every = sum(slices.values())
    return {name: max(1, round(total * count / every)) for name, count in slices.items()}


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, usual = supervised_loss(setup.distance), setup.config.training.local_steps
    tasks = setup.training_tasks
    steps = steps_by_slices({task.name: len(task.train) for task in tasks}, usual)

    def client(trainer: SiteTrainer) -> CountingClient:
        return CountingClient(trainer, lambda _: loss, steps[trainer.task.name])

    most = usual * len(tasks)
    return federate(
        setup, private_projection(setup), client, lambda start: NormalisingServer(start, most)
    )
