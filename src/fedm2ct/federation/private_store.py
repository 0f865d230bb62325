"""A site's private state on the site's own disk. It never travels."""

import json
from collections.abc import Mapping
from pathlib import Path

from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.method import State
from fedm2ct.federation.storage import CheckpointError, RoundFiles, load_tensors, save_tensors
from fedm2ct.files import read_table, write_atomically


class PrivateStore:
    """The private states of one site, one file a round, and what it has spent, in one for all.

    Parameters
    ----------
    folder
        The site's own folder, ``UNIT/sites/SITE``.
    site
        Name of the site.
    model_fingerprint
        Hash of the names, shapes and dtypes of the site's private model.
    identity
        The run they belong to.
    """

    def __init__(
        self, folder: Path, site: str, model_fingerprint: str, identity: RunIdentity
    ) -> None:
        self.files = RoundFiles(folder, "private")
        self.site = site
        self._spent = folder / "spent.json"
        self._model = model_fingerprint
        self._identity = identity

    def save(self, round_index: int, state: State) -> None:
        """Store the private state after a round (round 0: before the first one).

        Raises
        ------
        StorageError
            If it cannot be written; the older files are then untouched.
        """
        about = {
            "kind": "private",
            "site": self.site,
            "round": round_index,
            "model": self._model,
            "fingerprint": self._identity.fingerprint,
            "seed": self._identity.seed,
        }
        save_tensors(self.files.path(round_index), state, about)

    def load_until(self, last: int, first: int = 0) -> State:
        """Read the newest private state up to round `last` back.

        A site that was away has none of the last rounds. One that is known to have taken part in
        round `first` must have that one or a newer one.

        Raises
        ------
        DamagedFileError
            If the file is missing, truncated or altered.
        CheckpointError
            If it belongs to another run, site, round or model.
        """
        found = self.files.newest_until(last)
        return self.load(first if found is None else max(first, found))

    def load(self, round_index: int) -> State:
        """Read the private state of exactly this round back.

        Raises
        ------
        DamagedFileError
            If the file is missing, truncated or altered.
        CheckpointError
            If it belongs to another run, site, round or model.
        """
        path = self.files.path(round_index)
        state, about = load_tensors(path)
        self._identity.check(path, about)
        expected = {"kind": "private", "site": self.site, "round": round_index}
        if any(about.get(key) != value for key, value in expected.items()):
            raise CheckpointError(
                f"{path} is not the private state of site {self.site} after round {round_index}: "
                "put the right file back, or remove it to resume from an older round"
            )
        if about.get("model") != self._model:
            raise CheckpointError(
                f"{path} was written for another private model: resume with the model the run was "
                "started with, or choose another output folder"
            )
        return state

    def save_spent(self, counts: Mapping[str, int]) -> None:
        """Store what the site has spent of its privacy, whatever round it may go back to.

        Raises
        ------
        StorageError
            If it cannot be written; the older file is then untouched.
        """
        write_atomically(self._spent, json.dumps(dict(counts)).encode())

    def load_spent(self) -> dict[str, int]:
        """Read back what the site has spent; nothing before its first private state.

        Raises
        ------
        CheckpointError
            If the file is missing or damaged: counting from zero would promise too much.
        """
        counts = read_table(self._spent)
        if not counts and not self._spent.exists() and not self.files.rounds():
            return {}
        if not counts or not all(type(n) is int and n >= 0 for n in counts.values()):
            raise CheckpointError(
                f"{self._spent} is missing or damaged, and without it epsilon is not known: put "
                "the file back from a backup, or start again in another output folder"
            )
        return counts
