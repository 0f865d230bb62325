"""The server's checkpoint of a round: the shared parameters and what the server keeps."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedm2ct.federation.method import State
from fedm2ct.federation.storage import (
    CheckpointError,
    DamagedFileError,
    RoundFiles,
    encode_tensors,
    load_tensors,
)
from fedm2ct.files import write_atomically


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
    trained
        The last round of which each site has sent word: its private state is at least that new.
        A site that is not named has taken part in this one.
    record
        What validation remembers of earlier rounds (`TrackRecord.as_json`).
    """

    round_index: int
    shared: State
    server: State
    trained: Mapping[str, int] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one unit of work; the last two rounds are kept.

    Parameters
    ----------
    folder
        ``UNIT/checkpoints``.
    identity
        The run they belong to.
    expected
        Returns the SHA-256 that a round's file should have, None where nobody keeps account.
    """

    def __init__(
        self,
        folder: Path,
        identity: RunIdentity,
        expected: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self.files = RoundFiles(folder, "round")
        self._identity = identity
        self._expected = expected

    def save(self, checkpoint: Checkpoint) -> None:
        """Store a round; see `write`."""
        self.write(checkpoint.round_index, self.encode(checkpoint))

    def encode(self, checkpoint: Checkpoint) -> bytes:
        """Return the bytes of a round's file: to be noted before they are written."""
        tensors = {f"shared/{name}": value for name, value in checkpoint.shared.items()}
        tensors |= {f"server/{name}": value for name, value in checkpoint.server.items()}
        about = {
            "kind": "server",
            "round": checkpoint.round_index,
            "fingerprint": self._identity.fingerprint,
            "seed": self._identity.seed,
            "trained": dict(checkpoint.trained),
            "record": dict(checkpoint.record),
        }
        return encode_tensors(tensors, about)

    def write(self, round_index: int, data: bytes) -> None:
        """Store a round's file, then drop those older than the round before it.

        Raises
        ------
        StorageError
            If it cannot be written; the older checkpoints are then untouched.
        """
        write_atomically(self.files.path(round_index), data)
        self.files.keep(round_index - 1, round_index)

    def load(self, round_index: int) -> Checkpoint:
        """Read a round back.

        Raises
        ------
        DamagedFileError
            If the file is missing, truncated or altered, or not the one that was noted.
        CheckpointError
            If it belongs to another run.
        """
        path = self.files.path(round_index)
        expected = self._expected(round_index)
        if expected is not None and path.exists() and expected != file_digest(path):
            raise DamagedFileError(f"{path} is not the file that the audit log speaks of")
        tensors, about = load_tensors(path)
        self._identity.check(path, about)
        if about.get("kind") != "server" or about.get("round") != round_index:
            raise CheckpointError(
                f"{path} is not the server's checkpoint of round {round_index}: put the right file "
                "back, or remove it to resume from an older round"
            )
        trained, record = about.get("trained"), about.get("record")
        if (
            not isinstance(trained, dict)
            or not all(type(n) is int for n in trained.values())
            or not isinstance(record, dict)
        ):
            raise CheckpointError(
                f"{path} does not say which sites took part: it was not written by this version of "
                "fedm2ct; use the version that wrote it, or start again in another output folder"
            )
        return Checkpoint(
            round_index,
            _group(tensors, "shared/"),
            _group(tensors, "server/"),
            trained,
            record,
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _group(tensors: State, prefix: str) -> State:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
