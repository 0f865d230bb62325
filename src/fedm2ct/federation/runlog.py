"""A unit's ``metrics.jsonl``: one JSON object a line, appended as the rounds go by."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedm2ct.files import append_durably, write_atomically

Event = dict[str, Any]


class RunLog:
    """The log of one unit of work.

    Parameters
    ----------
    path
        ``UNIT/metrics.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events, all of them or none, and flush them to the disk.

        Numbers that are not finite become null: JSON has no word for them.

        Raises
        ------
        StorageError
            If they cannot be written; the file is then as it was.
        """
        lines = "".join(json.dumps(_plain(event), allow_nan=False) + "\n" for event in events)
        append_durably(self.path, lines.encode())

    def read(self) -> list[Event]:
        """Return all events; a last line cut off by a crash is left out."""
        events: list[Event] = []
        if not self.path.exists():
            return events
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def rewind(self, round_index: int) -> None:
        """Drop what was logged after a round, and the end of the run.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        kept = [
            event
            for event in self.read()
            if event.get("event") != "finish" and int(event.get("round") or 0) <= round_index
        ]
        text = "".join(json.dumps(event, allow_nan=False) + "\n" for event in kept)
        if kept or self.path.exists():
            write_atomically(self.path, text.encode())


def _plain(event: Mapping[str, Any]) -> Event:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in event.items()
    }
