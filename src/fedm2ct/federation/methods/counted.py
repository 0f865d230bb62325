"""Sites that keep a state of which the server keeps the mean: both must count the same uploads."""

import torch

from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.trainer import part_of

_TRAINED, _EARLIER = "counted.trained", "counted.earlier."


class CountedClient(SiteClient):
    """Takes its memory of a round back when its upload of that round did not count.

    SCAFFOLD's c is the mean of the sites' c_i, FedDyn's h that of their g_k, only while no change
    of one is made without the other: an upload that is refused, or lost, would part them for good.

    Attributes
    ----------
    trained
        The last round that the site trained in; 0 before the first.
    earlier
        The memory before that round.
    """

    trained: int = 0
    earlier: State

    def heard(self, counted: int) -> None:
        """See `ClientHalf.heard`; a state from before the upload that counted is left as it is."""
        if self.trained > counted:
            self.memory = self.earlier

    def fit(self, round_index: int, shared: State) -> Upload:
        """See `SiteClient.fit`."""
        earlier = dict(self.memory)
        upload = super().fit(round_index, shared)
        self.trained, self.earlier = round_index, earlier
        return upload

    def private_state(self) -> State:
        """Return the site's state, what it was before the last round among it."""
        own = super().private_state()
        if self.trained:
            own[_TRAINED] = torch.tensor(self.trained)
            own |= {f"{_EARLIER}{n}": t for n, t in self.earlier.items()}
        return own

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`."""
        super().load_private_state(state)
        self.trained = int(state[_TRAINED]) if _TRAINED in state else 0
        self.earlier = part_of(state, _EARLIER)
