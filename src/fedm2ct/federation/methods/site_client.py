"""The client half that most methods share: a trainer, a loss, and when to validate."""

from collections.abc import Callable, Mapping

from fedm2ct.federation.method import ClientHalf, State, Upload
from fedm2ct.federation.storage import state_fingerprint
from fedm2ct.learning.trainer import Loss, SiteTrainer, part_of
from fedm2ct.model.ts_iradonmap import SHARED_PREFIX

LossOfRound = Callable[[int], Loss]


class SiteClient(ClientHalf):
    """Downloads, trains, validates, uploads.

    A method with a local objective of its own overrides `train`; one that sends more than the
    shared parameters overrides `sent`, and finds what was received in `train`'s `received`.

    Attributes
    ----------
    memory
        Tensors that the method keeps at the site between rounds, beside model and optimiser.

    Parameters
    ----------
    trainer
        The site's trainer; its model decides what is shared.
    loss_of_round
        The loss to train with in a round.
    validate_download
        Whether the model is validated with the downloaded shared parameters before training, as a
        method must whose product is the global model.
    validate_training
        Whether it is validated after local training, as a personalised method may.
    """

    def __init__(
        self,
        trainer: SiteTrainer,
        loss_of_round: LossOfRound,
        *,
        validate_download: bool,
        validate_training: bool,
    ) -> None:
        self.trainer, self.loss_of_round = trainer, loss_of_round
        self.validate_download, self.validate_training = validate_download, validate_training
        self.memory: State = {}

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round; see `ClientHalf.fit`."""
        metrics: dict[str, float] = {}
        self.trainer.model.load_shared(parameters_of(shared))
        if self.validate_download:
            metrics.update(self.trainer.validate())
        metrics["loss"] = self.train(round_index, shared)
        # As a file would bring it back: a sum over it must not depend on its layout in memory.
        self.memory = {n: t.detach().cpu().contiguous() for n, t in self.memory.items()}
        if self.validate_training:
            metrics.update(self.trainer.validate())
        samples = len(self.trainer.train_data)
        return Upload(self.trainer.task.name, self.sent(), samples, metrics)

    def join(self, shared: State) -> None:
        """Begin where a federation has ended, at a site that has not taken part in it."""
        self.trainer.model.load_shared(shared)

    def train(self, round_index: int, received: State) -> float:
        """Train the model, which holds the received parameters, for a round; return the loss."""
        return self.trainer.train_round(round_index, self.loss_of_round(round_index))

    def sent(self) -> State:
        """Return what the site sends after a round."""
        return self.trainer.model.shared_state()

    def finish(self, shared: State) -> Mapping[str, float]:
        """Validate the last global model where the method's product is one."""
        self.trainer.model.load_shared(parameters_of(shared))
        metrics = self.trainer.validate() if self.validate_download else {}
        return {**metrics, "best_val_psnr_db": self.trainer.best_psnr}

    def private_state(self) -> State:
        """See `ClientHalf.private_state`."""
        return {**self.trainer.state(), **{f"memory.{n}": t for n, t in self.memory.items()}}

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`."""
        self.trainer.load_state(state)
        self.memory = part_of(state, "memory.")

    @property
    def fingerprint(self) -> str:
        """See `ClientHalf.fingerprint`."""
        return state_fingerprint(self.trainer.model.private_state())


def parameters_of(sent: State) -> State:
    """Return the model's parameters among what was sent."""
    return {name: tensor for name, tensor in sent.items() if name.startswith(SHARED_PREFIX)}


class UnconnectedClient(SiteClient):
    """A site that exchanges nothing: its shared network is one more private part.

    It starts from the same shared parameters as the others, so that it differs from `SiteClient`
    in nothing but the exchange.
    """

    def __init__(self, trainer: SiteTrainer, loss_of_round: LossOfRound, initial: State) -> None:
        super().__init__(trainer, loss_of_round, validate_download=False, validate_training=True)
        trainer.model.load_shared(initial)

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round from the site's own parameters; upload none."""
        own = super().fit(round_index, self.trainer.model.shared_state())
        return Upload(own.site, {}, own.samples, own.metrics)

    def finish(self, shared: State) -> Mapping[str, float]:
        """Return the best validation score; there is nothing to take over."""
        return super().finish(self.trainer.model.shared_state())

    def private_state(self) -> State:
        """Return the site's state, the shared network's parameters among it."""
        own = self.trainer.model.shared_state()
        return {**super().private_state(), **{f"model.{n}": t for n, t in own.items()}}

    @property
    def fingerprint(self) -> str:
        """See `ClientHalf.fingerprint`."""
        model = self.trainer.model
        return state_fingerprint({**model.private_state(), **model.shared_state()})
