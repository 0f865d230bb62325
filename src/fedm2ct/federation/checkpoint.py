"""The server's checkpoint of a round: the shared parameters and what the server keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedm2ct.federation.method import State
from fedm2ct.federation.storage import CheckpointError, RoundFiles, load_tensors, save_tensors


@dataclass(frozen=True)
class RunIdentity:
    """What makes two runs the same run: only the same run may be resumed.

    Attributes
    ----------
    fingerprint
        Hash of the configuration.
    seed
        Seed of the run.
    """

    fingerprint: str
    seed: int

    def check(self, path: Path, about: dict[str, Any]) -> None:
        """Refuse a stored file that belongs to another run.

        Raises
        ------
        CheckpointError
            If the configuration or the seed differs.
        """
        if about.get("fingerprint") != self.fingerprint or about.get("seed") != self.seed:
            raise CheckpointError(
                f"{path} belongs to a run with another configuration or seed: resume with the "
                "configuration and seed it was started with, or choose another output folder"
            )


@dataclass(frozen=True)
class Checkpoint:
    """The server after a round (round 0: before the first one).

    Attributes
    ----------
    round_index
        The round that is done.
    shared
        The shared parameters that the next round starts from.
    server
        What `ServerHalf.state` returned.
    """

    round_index: int
    shared: State
    server: State


class CheckpointStore:
    """The checkpoints of one unit of work; the last two rounds are kept.

    Parameters
    ----------
    folder
        ``UNIT/checkpoints``.
    identity
        The run they belong to.
    """

    def __init__(self, folder: Path, identity: RunIdentity) -> None:
        self.files = RoundFiles(folder, "round")
        self._identity = identity

    def save(self, checkpoint: Checkpoint) -> None:
        """Store a round, then drop those older than the one before it.

        Raises
        ------
        StorageError
            If it cannot be written; the older checkpoints are then untouched.
        """
        tensors = {f"shared/{name}": value for name, value in checkpoint.shared.items()}
        tensors |= {f"server/{name}": value for name, value in checkpoint.server.items()}
        about = {
            "kind": "server",
            "round": checkpoint.round_index,
            "fingerprint": self._identity.fingerprint,
            "seed": self._identity.seed,
        }
        save_tensors(self.files.path(checkpoint.round_index), tensors, about)
        self.files.keep(checkpoint.round_index - 1, checkpoint.round_index)

    def load(self, round_index: int) -> Checkpoint:
        """Read a round back.

        Raises
        ------
        DamagedFileError
            If the file is missing, truncated or altered.
        CheckpointError
            If it belongs to another run.
        """
        path = self.files.path(round_index)
        tensors, about = load_tensors(path)
        self._identity.check(path, about)
        if about.get("kind") != "server" or about.get("round") != round_index:
            raise CheckpointError(
                f"{path} is not the server's checkpoint of round {round_index}: put the right file "
                "back, or remove it to resume from an older round"
            )
        return Checkpoint(round_index, _group(tensors, "shared/"), _group(tensors, "server/"))


def _group(tensors: State, prefix: str) -> State:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
