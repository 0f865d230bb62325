"""One site in a run: its half of the method, its private store, and what happens when it fails."""

import contextlib
import traceback
from collections.abc import Mapping
from pathlib import Path

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.method import ClientHalf, State, Upload
from fedm2ct.federation.private_store import PrivateStore
from fedm2ct.federation.storage import CheckpointError
from fedm2ct.files import StorageError


class SiteFailureError(FedM2CTError):
    """A site's half of the method raised; the message is fit to leave the site.

    It holds the kind of the error only: an exception's own text may quote private values, so that
    text goes to the site's ``errors.log`` and nowhere else.
    """


class Site:
    """A `ClientHalf` with its private state kept on disk, round by round.

    A round that fails leaves no trace: the private state goes back to what it was before.

    Parameters
    ----------
    name
        Name of the site.
    client
        The site's half of the method, fresh from its constructor.
    folder
        The site's own folder, ``UNIT/sites/SITE``.
    identity
        The run this is part of.
    """

    def __init__(self, name: str, client: ClientHalf, folder: Path, identity: RunIdentity) -> None:
        self.name = name
        self.folder = folder
        self._client = client
        # Taken before any training: an optimiser may add tensors to the private state later on.
        self.store = PrivateStore(folder, name, client.fingerprint, identity)

    def begin(self) -> None:
        """Store the private state that round 1 starts from."""
        self._count()
        self.store.save(0, self._client.private_state())

    def restore(self, round_index: int) -> None:
        """Go back to the newest private state up to a round, and drop what was stored later.

        Raises
        ------
        CheckpointError
            If the stored state is missing, damaged, or not this model's.
        """
        state = self.store.load_until(round_index)
        try:
            self._client.load_private_state(state)
        except CheckpointError as error:
            raise CheckpointError(f"{self.store.files.path(round_index)}: {error}") from error
        except Exception as error:
            raise CheckpointError(
                f"{self.store.files.path(round_index)} does not fit the private model of site "
                f"{self.name} ({type(error).__name__}): resume with the configuration the run was "
                "started with"
            ) from error
        self.store.files.keep(0, round_index)

    def fit(self, round_index: int, shared: State, counted: int | None = None) -> Upload:
        """Train for one round and store the private state after it.

        `counted` is the last round in which the site's upload counted, if the server has said so.
        The files of the last two finished rounds are kept beside that of the running one; after a
        time away, the newest one from before it.

        Raises
        ------
        SiteFailureError
            If the method's half raised; its private state is then as before the round.
        StorageError
            If the disk is full or cannot be written to: the run cannot go on.
        """
        self.store.files.keep_since(round_index - 2, round_index)
        self._count()
        try:
            if counted is not None:
                self._client.heard(counted)
            upload = self._client.fit(round_index, shared)
            private = self._client.private_state()
        except StorageError:
            raise
        except Exception as error:
            failure = self._failure(f"round {round_index}", error)
            self.restore(round_index - 1)
            self.store.save(round_index, self.store.load_until(round_index - 1))
            raise failure from error
        self._count()  # before anything leaves the site
        self.store.save(round_index, private)
        return upload

    def _count(self) -> None:
        """Bring the client's count of what it has spent and the disk's together."""
        if self._client.spent():
            self._client.load_spent(self.store.load_spent())
            self.store.save_spent(self._client.spent())

    def finish(self, round_index: int, shared: State) -> Mapping[str, float]:
        """Hand the final shared parameters to the method's half.

        Raises
        ------
        SiteFailureError
            If the method's half raised.
        StorageError
            If it could not write what the site is to keep.
        """
        self.store.files.keep_since(round_index - 1, round_index)
        try:
            return self._client.finish(shared)
        except StorageError:
            raise
        except Exception as error:
            raise self._failure("the end of the run", error) from error

    def _failure(self, when: str, error: Exception) -> SiteFailureError:
        """Log an exception at the site; return what may be said of it elsewhere."""
        log = self.folder / "errors.log"
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
            stream.write(f"--- {when}\n{''.join(traceback.format_exception(error))}")
        return SiteFailureError(f"{type(error).__name__} (see errors.log in the site's folder)")
