"""Sites that keep a state of which the server keeps the mean: both must count the same uploads."""

from dataclasses import dataclass, field
from typing import Self

import torch

from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.trainer import part_of

_OWN = "counted."


@dataclass(frozen=True)
class Before:
    """What a site kept before the last round that it trained in, should that round not count.

    Attributes
    ----------
    trained
        The round; 0 before the first.
    kept
        What was kept before it.
    """

    trained: int = 0
    kept: State = field(default_factory=dict)

    def unless_counted(self, counted: int, now: State) -> State:
        """Return what to keep: `now`, or what was before the round where it has not counted.

        A state from before the upload that counted last is kept: it may have been put back from an
        older file.
        """
        return self.kept if self.trained > counted else now

    def as_state(self) -> State:
        """Return tensors of which `from_state` makes the same."""
        if not self.trained:
            return {}
        kept = {f"earlier.{name}": tensor for name, tensor in self.kept.items()}
        return {"trained": torch.tensor(self.trained), **kept}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return what `as_state` has described; none of it is before the first round."""
        return cls(int(state.get("trained", 0)), part_of(state, "earlier."))


class CountedClient(SiteClient):
    """Takes its memory of a round back when its upload of that round did not count.

    SCAFFOLD's c is the mean of the sites' c_i, FedDyn's h that of their g_k, only while no change
    of one is made without the other: an upload that is refused, or lost, would part them for good.

    Attributes
    ----------
    before
        The memory before the last round.
    """

    before = Before()

    def heard(self, counted: int) -> None:
        """See `ClientHalf.heard`."""
        self.memory = self.before.unless_counted(counted, self.memory)

    def fit(self, round_index: int, shared: State) -> Upload:
        """See `SiteClient.fit`."""
        before = Before(round_index, dict(self.memory))
        upload = super().fit(round_index, shared)
        self.before = before
        return upload

    def private_state(self) -> State:
        """Return the site's state, what it was before the last round among it."""
        own = {f"{_OWN}{name}": tensor for name, tensor in self.before.as_state().items()}
        return {**super().private_state(), **own}

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`."""
        super().load_private_state(state)
        self.before = Before.from_state(part_of(state, _OWN))
