"""Sites without normal-dose images: those that only receive, and those that teach themselves.

They abstain from every average: what they could send has not been trained on any truth.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from fedm2ct.config import HybridConfig
from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.methods.site_client import SiteClient, parameters_of
from fedm2ct.learning.losses import Distance
from fedm2ct.learning.self_supervised import Term, make_terms, weighted
from fedm2ct.learning.trainer import Loss, SiteTrainer
from fedm2ct.learning.unpaired_trainer import UnpairedTrainer
from fedm2ct.model.ts_iradonmap import Reconstruction

TermOfRound = Callable[[int], Term | None]


class ReceivingClient(SiteClient):
    """Takes each round's shared network, keeps the one that predicts best, trains nothing.

    Its private networks stay as they are at the start, the identity, so the shared network's image
    is its reconstruction.

    Parameters
    ----------
    trainer
        The site's trainer.
    """

    trainer: UnpairedTrainer

    def __init__(self, trainer: SiteTrainer) -> None:
        super().__init__(trainer, _no_loss, validate_download=True, validate_training=False)
        if trainer.model.shared is not None:
            trainer.model.private_weight.fill_(0.0)

    def fit(self, round_index: int, shared: State) -> Upload:
        """Receive and validate; send nothing."""
        self._receive(shared)
        return Upload(self.trainer.task.name, {}, 0, self.trainer.validate())

    def finish(self, shared: State) -> Mapping[str, float]:
        """Receive and validate the last shared network."""
        self._receive(shared)
        return self.trainer.validate()

    def _receive(self, shared: State) -> None:
        if shared:
            self.trainer.model.load_shared(parameters_of(shared))


class SelfTaughtClient(ReceivingClient):
    """Receives, and trains its private part without truth; the shared network stays as received.

    Parameters
    ----------
    trainer
        The site's trainer; its model has a private network.
    term_of_round
        The loss of a round; None where nothing is to be learned yet.
    """

    def __init__(self, trainer: SiteTrainer, term_of_round: TermOfRound) -> None:
        super().__init__(trainer)
        self.term_of_round = term_of_round
        self.trainer.weighs = True
        if trainer.model.shared is not None:
            trainer.model.shared.requires_grad_(False)

    def fit(self, round_index: int, shared: State) -> Upload:
        """Receive, validate, train, validate; send nothing."""
        received = super().fit(round_index, shared)
        term = self.term_of_round(round_index)
        if term is None:
            return received
        loss = self.trainer.learn(round_index, term)
        metrics = {**received.metrics, "loss": loss, **self.trainer.validate()}
        return Upload(received.site, {}, 0, metrics)


def unpaired_client(
    trainer: SiteTrainer,
    options: HybridConfig,
    distance: Distance,
    teacher_weight: Callable[[int], float] | None = None,
) -> ReceivingClient:
    """Return the client of a site without pairs whose model has a private network.

    Parameters
    ----------
    trainer
        The site's trainer.
    options
        The terms of its loss; with none that applies the site only receives.
    distance
        The supervised distance, for teacher and public pairs.
    teacher_weight
        The teacher's weight in a round, None where there is no teacher.
    """
    assert isinstance(trainer, UnpairedTrainer)
    pairs, batch = trainer.public_train, trainer.training.batch_size
    terms = make_terms(options, trainer.task.protocol, distance, pairs, batch)
    if teacher_weight is None:
        terms.pop("teacher", None)
    if not terms:
        return ReceivingClient(trainer)

    def weight(name: str, round_index: int) -> float:
        if name == "teacher" and teacher_weight is not None:
            return teacher_weight(round_index) * options.teacher
        return options.equivariance if name == "equivariance" else 1.0

    return SelfTaughtClient(
        trainer, lambda r: weighted([(weight(name, r), term) for name, term in terms.items()])
    )


def _no_loss(round_index: int) -> Loss:
    def loss(result: Reconstruction, truth: Tensor) -> Tensor:
        raise ValueError("a site without normal-dose images has no supervised loss")

    return loss
