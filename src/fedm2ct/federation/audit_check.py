"""Holding a unit's audit log against itself, its checkpoints, and hashes kept elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedm2ct.federation.audit import FILE_NAME, AuditError, Chain, Entry, read_chain
from fedm2ct.federation.checkpoint import file_digest
from fedm2ct.federation.storage import RoundFiles

_EVENTS = {"begin", "resume", "round", "finish"}


@dataclass(frozen=True)
class AuditReport:
    """What a check has found.

    Attributes
    ----------
    lines
        Number of lines.
    rounds
        The last round that the log speaks of.
    head
        Hash of the last line: keep it where the run's machine cannot write.
    hashes
        The hashes of all lines.
    faults
        What is wrong, a sentence each; none where all is well.
    notes
        What a crash explains as well as a hand.
    """

    lines: int
    rounds: int
    head: str
    hashes: frozenset[str]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def check_unit(folder: Path) -> AuditReport:
    """Check the audit log of a unit of work and the checkpoints that lie beside it.

    Parameters
    ----------
    folder
        The unit's folder.
    """
    try:
        chain = read_chain(folder / FILE_NAME)
    except (AuditError, OSError) as error:
        return AuditReport(0, 0, "", frozenset(), (str(error),), ())
    if not chain.entries:
        fault = f"{folder / FILE_NAME}: there is no audit log, or it is empty"
        return AuditReport(0, 0, chain.head, frozenset(), (fault,), ())
    faults = [*_order_faults(folder, chain.entries), *_checkpoint_faults(folder, chain)]
    notes = _notes(folder, chain)
    if notes and chain.entries[-1]["event"] == "finish":
        faults, notes = [*faults, *notes], []  # after the end no crash explains it
    return AuditReport(
        len(chain.entries),
        int(chain.entries[-1]["round"]),
        chain.head,
        frozenset(str(entry["hash"]) for entry in chain.entries),
        tuple(faults),
        tuple(notes),
    )


def missing_heads(reports: Sequence[AuditReport], heads: Sequence[str]) -> list[str]:
    """Return the hashes, kept from before, that no log holds any more (all of each, or its start).

    Parameters
    ----------
    reports
        What the run's units are like now.
    heads
        Hashes that were once the heads of some.
    """
    known = [hash_ for report in reports for hash_ in report.hashes]
    return [head for head in heads if not any(hash_.startswith(head) for hash_ in known)]


def _order_faults(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """Follow the rounds: each is one more than the last, or than the one that was resumed."""
    done: int | None = None
    furthest: int | None = None
    for number, entry in enumerate(entries, start=1):
        event, round_index = entry.get("event"), entry.get("round")
        where = f"{folder / FILE_NAME}, line {number}: "
        if event not in _EVENTS or not isinstance(round_index, int):
            return [f"{where}is not an entry that this version writes"]
        follows = {
            "begin": round_index == 0,
            "resume": furthest is None or round_index <= furthest,
            "round": done is not None and round_index == done + 1,
            "finish": round_index == done,
        }
        if not follows[event]:
            return [f"{where}tells of {event} {round_index} after round {done}"]
        done = round_index
        furthest = max(furthest or 0, done)
    return []


def _checkpoint_faults(folder: Path, chain: Chain) -> list[str]:
    files = RoundFiles(folder / "checkpoints", "round")
    noted = chain.checkpoints()
    faults = []
    for round_index in files.rounds():
        path = files.path(round_index)
        if round_index not in noted:
            faults.append(f"{path}: the audit log knows of no such checkpoint")
        elif file_digest(path) != noted[round_index]:
            faults.append(f"{path}: is not the file that the audit log speaks of")
    return faults


def _notes(folder: Path, chain: Chain) -> list[str]:
    notes = []
    last = int(chain.entries[-1]["round"])
    path = RoundFiles(folder / "checkpoints", "round").path(last)
    if not path.exists():
        notes.append(f"{path}: is not there, although the log ends with its round")
    if chain.cut:
        notes.append(f"{folder / FILE_NAME}: ends in half a line")
    return notes
