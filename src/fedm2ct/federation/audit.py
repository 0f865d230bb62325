"""A unit's ``audit.jsonl``: what happened in every round, in lines chained by their hashes.

Each line is one JSON object. It holds its number, the hash of the line before it, and its own: a
line that is changed, removed, added or moved breaks the chain. Nothing is ever taken back: a run
that is resumed says so, and its rounds are told again. A line is on the disk before the checkpoint
that it speaks of.

The chain has no key. Who can write the file can write a new chain, or leave out lines at the end;
only a hash that was kept elsewhere (`AuditLog.head`) tells.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedm2ct.errors import FedM2CTError
from fedm2ct.files import append_durably, storage_failure

Entry = dict[str, Any]
FILE_NAME = "audit.jsonl"
BEGINNING = "0" * 64


class AuditError(FedM2CTError):
    """An audit log that is not as it was written: names the line."""


@dataclass(frozen=True)
class Chain:
    """What a log holds.

    Attributes
    ----------
    entries
        The lines, in order.
    whole
        Length of the file up to the last whole line, in bytes.
    cut
        Whether half a line follows, as after a crash.
    """

    entries: list[Entry]
    whole: int
    cut: bool

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return str(self.entries[-1]["hash"]) if self.entries else BEGINNING

    def checkpoints(self) -> dict[int, str]:
        """Return the SHA-256 of each round's checkpoint, as noted last."""
        return {e["round"]: e["checkpoint"] for e in self.entries if "checkpoint" in e}


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Return the hash of a line: of all that it holds but the hash."""
    rest = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(_line(rest).encode()).hexdigest()


def read_chain(path: Path) -> Chain:
    """Read a log and follow its chain; a log that does not exist is empty.

    Raises
    ------
    AuditError
        If a line is not as it was written, naming the first such line.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    previous = BEGINNING
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
        entry = _parsed(path, number, line)
        if entry["previous"] != previous or entry["index"] != number - 1:
            raise AuditError(
                f"{path}, line {number}: does not follow the line before it; one was removed, "
                "added, moved or changed"
            )
        previous = entry["hash"]
        entries.append(entry)
    return Chain(entries, whole, cut=whole < len(data))


def _parsed(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = json.loads(line)
        intact = isinstance(entry, dict) and entry["hash"] == entry_hash(entry)
        # The same content in another spelling would hash alike.
        intact = intact and line == _line(entry).encode() and {"index", "previous"} <= entry.keys()
    except (ValueError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise AuditError(f"{path}, line {number}: is not as it was written")
    return dict(entry)


class AuditLog:
    """The log of one unit of work, to be opened before it is written to.

    Parameters
    ----------
    path
        ``UNIT/audit.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chain = Chain([], 0, cut=False)
        self._next, self.head = 0, BEGINNING

    def open(self, warn: Callable[[str], None]) -> None:
        """Follow the chain so far; drop half a line that a crash has left, and say so.

        Raises
        ------
        AuditError
            If the log has been tampered with: the run must not go on as if it had not.
        StorageError
            If the half line cannot be dropped.
        """
        self._chain = read_chain(self.path)
        if self._chain.cut:
            warn(f"{self.path}: the last line was cut off by a crash and is dropped")
            try:
                os.truncate(self.path, self._chain.whole)
            except OSError as error:
                raise storage_failure(self.path, error) from error
        self._next, self.head = len(self._chain.entries), self._chain.head

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written yet."""
        return self._next == 0

    def checkpoint(self, round_index: int) -> str | None:
        """Return the SHA-256 of a round's checkpoint as the log had it when it was opened.

        It is empty where the log knows of none, which no file matches, and None where there is no
        log.
        """
        if not self._chain.entries:
            return None
        return self._chain.checkpoints().get(round_index, "")

    def append(self, event: str, content: Mapping[str, Any]) -> None:
        """Add a line and flush it to the disk. The time in it informs; nothing depends on it.

        Raises
        ------
        StorageError
            If it cannot be written; the file is then as it was.
        """
        entry: Entry = {
            **content,
            "event": event,
            "index": self._next,
            "previous": self.head,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        entry["hash"] = entry_hash(entry)
        append_durably(self.path, f"{_line(entry)}\n".encode())
        self._next, self.head = self._next + 1, entry["hash"]


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
