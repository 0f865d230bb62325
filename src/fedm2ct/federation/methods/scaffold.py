"""SCAFFOLD: control variates against client drift (Karimireddy et al. 2020, arXiv 1910.06378).

The server keeps x and c, site i keeps c_i; all c start at zero. In a round the site takes K steps
from y_i = x, each with the corrected gradient

    g_i(y_i) - c_i + c

then c_i^+ = c_i - c + (x - y_i) / (K eta)   (option II), and sends (y_i, c_i^+ - c_i). With S the
sites that took part, of N,

    x <- x + eta_g / |S| sum_i (y_i - x)         c <- c + 1 / N sum_i (c_i^+ - c_i)

Ours: under plain SGD at a constant rate, option II is the mean of g_i over the K steps, for
x - y_i = eta sum_k (g_i - c_i + c). That mean is taken here as it goes by, so that c_i is a
gradient whatever optimiser and schedule use it; a test holds both forms against each other.

Shared: the image network, and control variates of its size in both directions. Kept: sinogram
network and back-projection, and c_i; it goes back to what it was where the upload of its change
did not count (`counted`). Sites count alike, as in the paper.
"""

import torch

from fedm2ct.federation.method import Aggregate, State, Upload
from fedm2ct.federation.methods.counted import CountedClient
from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, parameters_of
from fedm2ct.learning.drift import gradient_of, linear, together
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer, part_of

CONTROL = "control."


class ControlledClient(CountedClient):
    """Corrects each gradient by c - c_i; `memory` holds c_i under the parameters' names."""

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=False)
        self.memory = {n: torch.zeros_like(t) for n, t in trainer.model.shared_state().items()}
        self.change: State = {}

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        parameters = self.trainer.model.shared_parameters()
        total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}

        def record(index: int) -> None:
            for name, parameter in parameters.items():
                total[name] += gradient_of(parameter)

        common = part_of(received, CONTROL)
        towards = linear(parameters, {n: common[n] - own for n, own in self.memory.items()})
        loss = self.loss_of_round(round_index)
        mean_loss = self.trainer.train_round(round_index, loss, together(record, towards))
        steps = self.trainer.training.local_steps
        control = {n: (t / steps).float().cpu() for n, t in total.items()}
        self.change = {n: control[n] - own for n, own in self.memory.items()}
        self.memory = control
        return mean_loss

    def changes_of(self, received: State) -> State:
        """See `ClientHalf.changes_of`; what is sent of control variates is a change already."""
        return parameters_of(received)

    def sent(self) -> State:
        """Return y_i and c_i^+ - c_i."""
        return {**super().sent(), **with_control(self.change)}


class ControllingServer(AveragingServer):
    """Steps towards the sites' mean and keeps the mean control variate."""

    takes_average = False  # by equations of its own

    def __init__(self, initial: State, sites: int, global_rate: float) -> None:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in initial.items()}
        super().__init__({**initial, **with_control(zeros)})
        self.sites, self.global_rate = sites, global_rate

    def upload_like(self, shared: State) -> State:
        """See `ServerHalf.upload_like`; what is sent of control variates is a change of zero."""
        controls = part_of(shared, CONTROL)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in controls.items()}
        return {**parameters_of(shared), **with_control(zeros)}

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Return the next x and c."""
        fused: State = {}
        for name, start in shared.items():
            sent = torch.stack([upload.shared[name].double() for upload in uploads])
            if name.startswith(CONTROL):
                moved = start.double() + sent.sum(0) / self.sites
            else:
                moved = start.double() + self.global_rate * (sent.mean(0) - start.double())
            fused[name] = moved.to(start.dtype)
        return Aggregate(fused)


def with_control(state: State) -> State:
    """Return tensors under the names that control variates travel under."""
    return {f"{CONTROL}{name}": tensor for name, tensor in state.items()}


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss, rate = supervised_loss(setup.distance), setup.config.method.scaffold.global_rate
    return federate(
        setup,
        private_projection(setup),
        lambda trainer: ControlledClient(trainer, lambda _: loss),
        lambda start: ControllingServer(start, len(setup.training_tasks), rate),
    )
