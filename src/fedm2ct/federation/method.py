"""A method of federated learning: a client half and a server half, declared together.

Nothing here knows of Flower: the engine (`fedm2ct.federation.run`) carries what these halves
return. The data's way through a round is

    server.shared -> client.fit -> Upload -> (validation) -> server.aggregate -> server.shared

What travels is a set of named tensors, `shared` both ways. Most methods send shared parameters and
nothing else; one that sends more (control variates, say) puts it beside them under another prefix
(``control.``), and its server half declares what an upload must hold (`ServerHalf.upload_like`).

A half keeps its own state between rounds and hands it out as named tensors, so that the engine
can store it after every round and resume bit for bit. A half draws no random number from a global
generator: it derives one from (seed, site, round).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

State = dict[str, Tensor]
Compression = Literal["none", "fp16", "int8"]


@dataclass(frozen=True)
class Upload:
    """What a site sends after a round.

    Attributes
    ----------
    site
        Name of the site.
    shared
        What is sent, by name: the shared parameters after local training, and, under a prefix of
        their own, what other tensors the method needs. Nothing private is ever in here. At the
        server the tensors may lie on disk and be read one by one, as they are asked for.
    samples
        Number of training slices at the site, the usual weight of an average. A site that sends
        nothing and none, ``{}`` and 0, abstains: the round goes on without it.
    metrics
        Scalars for the log, such as the training loss or the validation PSNR.
    """

    site: str
    shared: Mapping[str, Tensor]
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def abstains(self) -> bool:
        """Whether the site has only received in this round."""
        return self.samples == 0 and not self.shared


@dataclass(frozen=True)
class Aggregate:
    """What the server makes of a round: the next shared parameters and scalars for the log."""

    shared: State
    metrics: Mapping[str, float] = field(default_factory=dict)


Average = Callable[[Sequence[Upload]], State]


def weighted_average(uploads: Sequence[Upload]) -> State:
    """Average the uploads' shared parameters, weighted by samples (FedAvg, McMahan et al. 2017).

    Sums are taken in float64, in the order given, and returned in the parameters' dtype. One tensor
    of one upload is held at a time where uploads lie on disk.
    """
    if not uploads:
        raise ValueError("cannot average: no upload of this round was accepted")
    total = float(sum(upload.samples for upload in uploads))
    average: State = {}
    for name, like in uploads[0].shared.items():
        mean = sum(u.shared[name].double() * (u.samples / total) for u in uploads)
        assert isinstance(mean, Tensor)
        average[name] = mean.to(like.dtype)
    return average


class ClientHalf(ABC):
    """One site's half of a method."""

    def heard(self, counted: int) -> None:  # noqa: B027  most halves need not know
        """Learn, before `fit`, the last round in which the site's upload counted (0: none yet).

        One that the server refuses or never gets does not count, which a half must know if its own
        state is to go with the server's.
        """

    @abstractmethod
    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round (counted from 1), starting from the downloaded shared parameters."""

    @abstractmethod
    def finish(self, shared: State) -> Mapping[str, float]:
        """Take the final shared parameters; return the final validation scalars."""

    def changes_of(self, received: State) -> State:
        """Return what the tensors of an upload are changes of, by name; others are changes of zero.

        The default is what was received. It must agree with the server's `upload_like`.
        """
        return received

    @abstractmethod
    def private_state(self) -> State:
        """Return everything to be kept at the site between rounds, as CPU tensors."""

    @abstractmethod
    def load_private_state(self, state: State) -> None:
        """Restore what `private_state` returned."""

    def spent(self) -> dict[str, int]:
        """Return counts that never go back, whatever round the site goes back to; none usually.

        They are stored apart from the private states, before what they count leaves the site.
        """
        return {}

    def load_spent(self, counts: Mapping[str, int]) -> None:  # noqa: B027  most count nothing
        """Take over counts that `spent` returned; of two, the higher holds."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the private state's names, shapes and dtypes: guards against a wrong file."""


class ServerHalf(ABC):
    """The server's half of a method.

    Attributes
    ----------
    average
        How uploads are averaged: another rule may stand in (`fedm2ct.federation.robust`).
    takes_average
        Whether `aggregate` uses `average`, as it does where the method's equations take the
        weighted average of the parameters and nothing else of the uploads.
    compression
        The form in which uploads arrive; they are decoded before they are looked at.
    """

    average: Average = staticmethod(weighted_average)
    takes_average: bool = False
    compression: Compression = "none"

    @abstractmethod
    def initial_shared(self) -> State:
        """Return what round 1 starts from: what is sent to every site (empty: nothing is)."""

    @abstractmethod
    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        """Fuse validated uploads (sorted by site name) into the next shared parameters."""

    def upload_like(self, shared: State) -> State:
        """Return what an upload must look like, and what its tensors are changes of.

        The default is what was sent down. A method whose sites send more, or less, says so here:
        validation demands exactly these names, shapes and dtypes.
        """
        return shared

    def fault(self, upload: Upload) -> str | None:
        """Say what is wrong with the values of an upload whose form is right, None if nothing."""
        return None

    def state(self) -> State:
        """Return what the server must keep between rounds beside the shared parameters."""
        return {}

    def load_state(self, state: State) -> None:
        """Restore what `state` returned."""
        if state:
            raise ValueError("this method's server keeps no state, yet the checkpoint holds some")
