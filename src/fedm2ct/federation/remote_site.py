"""A site that hears of rounds by message: it finds its own way to the state before a round.

In one process the engine restores every site together with the server. A site of a deployment may
have been killed, may have missed rounds, may join late, and the coordinator may have gone back to
its last checkpoint. What the site needs for all of that is on its own disk.
"""

import logging
from collections.abc import Mapping

from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.site import Site, SiteFailureError
from fedm2ct.federation.storage import CheckpointError, DamagedFileError

logger = logging.getLogger(__name__)


class RemoteSite(Site):
    """A `Site` whose rounds may have gaps; see `Site` for the parameters."""

    _at: int | None = None
    """The round whose private state the method's half holds in memory, if it is known."""

    def fit(self, round_index: int, shared: State, counted: int | None = None) -> Upload:
        """Train for one round; see `Site.fit`.

        A site that has missed rounds goes on from the last one it took part in; one that is new
        begins as it would have begun in round 1.

        Raises
        ------
        CheckpointError
            If the private states on the disk are of later rounds only, or damaged.
        """
        self._go_to(round_index - 1)
        self._at = None
        try:
            upload = super().fit(round_index, shared, counted)
        except SiteFailureError:
            self._at = round_index  # the round has failed and was put down as one without change
            raise
        self._at = round_index
        return upload

    def finish(self, round_index: int, shared: State) -> Mapping[str, float]:
        """Take the final shared parameters; see `Site.finish`."""
        self._go_to(round_index)
        return super().finish(round_index, shared)

    def _go_to(self, round_index: int) -> None:
        """Hold the private state after a round, and have it on disk under that round's number."""
        if self._at == round_index:
            return
        known = self.store.files.rounds()
        if not known:
            self.begin()
            known = [0]
        found = self._restore_newest([k for k in known if k <= round_index], round_index)
        if found < round_index:
            logger.warning(
                "site %s has no state after round %d: going on from that after round %d",
                self.name,
                round_index,
                found,
            )
            self.store.save(round_index, self.store.load(found))
        self._at = round_index

    def _restore_newest(self, known: list[int], round_index: int) -> int:
        """Restore the newest undamaged state among `known` and return its round."""
        faults = []
        for candidate in reversed(known):
            try:
                self.restore(candidate)
            except DamagedFileError as error:
                faults.append(str(error))
                continue
            return candidate
        reason = "; ".join(faults) or "only states of later rounds are there"
        raise CheckpointError(
            f"{self.folder}: no private state up to round {round_index} can be used ({reason}): "
            "put the files back from a backup, or let the coordinator start a new run"
        )
