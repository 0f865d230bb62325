"""What a coordinator keeps of a run: the checkpoints, the log of every round, and the audit log.

A round is told in the log, then in the audit log, then stored: it is done when its checkpoint is
there. So whatever checkpoint is found has been vouched for before it was written.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.audit import FILE_NAME, AuditLog
from fedm2ct.federation.checkpoint import Checkpoint, CheckpointStore, RunIdentity, file_digest
from fedm2ct.federation.events import audited_finish, audited_round, finish_events, round_events
from fedm2ct.federation.method import ServerHalf, State
from fedm2ct.federation.outliers import TrackRecord
from fedm2ct.federation.resume import newest_resumable
from fedm2ct.federation.runlog import Event, RunLog
from fedm2ct.federation.site import Site
from fedm2ct.federation.storage import CheckpointError
from fedm2ct.federation.validation import form_fault

if TYPE_CHECKING:
    from fedm2ct.federation.grid import Traffic
    from fedm2ct.federation.strategy import FinalReport, RoundReport

logger = logging.getLogger(__name__)


class Coordinator:
    """The server's half of a unit of work, with its folder.

    Attributes
    ----------
    shared
        The shared parameters after the last round that is done.
    rounds_done
        Its number.
    record
        What validation remembers of the rounds.

    Parameters
    ----------
    server
        The server's half of the method.
    folder
        Folder of the unit: ``checkpoints/``, ``metrics.jsonl``, ``audit.jsonl``.
    identity
        The run this is part of.
    on_event
        Told every line of the log, and warnings.
    """

    def __init__(
        self,
        server: ServerHalf,
        folder: Path,
        identity: RunIdentity,
        on_event: Callable[[Event], None],
    ) -> None:
        self.folder, self.server, self.identity = folder, server, identity
        self.on_event = on_event
        self.shared: State = {}
        self.rounds_done = 0
        self.record = TrackRecord()
        self.trained: dict[str, int] = {}
        self.log = RunLog(folder / "metrics.jsonl")
        self.audit = AuditLog(folder / FILE_NAME)
        self.checkpoints = CheckpointStore(folder / "checkpoints", identity, self.audit.checkpoint)

    def begin(self, sites: Sequence[str]) -> None:
        """Store round 0: what round 1 starts from."""
        self.log.rewind(-1)
        self.audit.open(self.warn)
        initial = self.server.initial_shared()
        self.shared = {name: value.detach().cpu().clone() for name, value in initial.items()}
        self.trained = dict.fromkeys(sites, 0)
        data = self.checkpoints.encode(self._checkpoint(0, self.shared))
        run = {"fingerprint": self.identity.fingerprint, "seed": self.identity.seed}
        begun = {**run, "round": 0, "sites": sorted(sites), "checkpoint": _sha256(data)}
        self.audit.append("begin", begun)
        self.checkpoints.write(0, data)

    def restore(self, rounds: int, sites: Sequence[Site] = ()) -> int | None:
        """Go back to the newest stored round and return it; None if there is none.

        Parameters
        ----------
        rounds
            Rounds of the whole run: more must not have been done.
        sites
            The sites whose folders are within reach: each must have its part of the round.

        Raises
        ------
        AuditError
            If the audit log is not as it was written.
        CheckpointError
            If what is stored cannot be used.
        FedM2CTError
            If more rounds are stored.
        """
        self.audit.open(self.warn)
        found = newest_resumable(self.checkpoints, sites, self.warn)
        if found is None:
            return None
        if found.round_index > rounds:
            raise FedM2CTError(
                f"{self.folder} is at round {found.round_index} already, beyond the {rounds} "
                "rounds asked for: ask for more rounds, or choose another output folder"
            )
        path = self.checkpoints.files.path(found.round_index)
        self._load(found, path)
        if self.audit.is_empty:
            self.warn(f"{self.audit.path} is missing: the audit of this run begins anew")
        self.audit.append("resume", {"round": found.round_index, "checkpoint": file_digest(path)})
        self.checkpoints.files.keep(0, found.round_index)
        self.log.rewind(found.round_index)
        return found.round_index

    def warn(self, text: str) -> None:
        """Tell the log of this process and the caller."""
        logger.warning("%s", text)
        self.on_event({"event": "warning", "reason": text})

    def round_done(
        self, report: "RoundReport", shared: State, traffic: Mapping[str, "Traffic"]
    ) -> None:
        """Tell of a round, then store it: it is done when the checkpoint is there."""
        number = report.round_index
        for site, what, reason in report.excluded:
            logger.warning("round %d: site %s %s: %s", number, site, what, reason)
        self._record(round_events(report, traffic))
        self.trained |= dict.fromkeys(report.heard, number)
        data = self.checkpoints.encode(self._checkpoint(number, shared))
        self.audit.append("round", audited_round(report, traffic, _sha256(data)))
        self.checkpoints.write(number, data)
        self.shared, self.rounds_done = shared, number
        self.on_event({"event": "checkpoint", "round": number})

    def finished(self, final: "FinalReport", rounds: int, traffic: Mapping[str, "Traffic"]) -> None:
        """Tell of the end.

        Raises
        ------
        FedM2CTError
            If a site could not take the final parameters.
        """
        self._record(finish_events(final, rounds, traffic))
        self.audit.append("finish", audited_finish(final, rounds, traffic))
        if final.failed:
            reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in final.failed)
            raise FedM2CTError(
                f"not every site could take the final parameters ({reasons}); correct the cause "
                f"and resume the run in {self.folder}"
            )

    def _checkpoint(self, number: int, shared: State) -> Checkpoint:
        server = self.server.state()
        return Checkpoint(number, shared, server, dict(self.trained), self.record.as_json())

    def _load(self, found: Checkpoint, path: Path) -> None:
        """Take a checkpoint over.

        Raises
        ------
        CheckpointError
            If it is not one of this method.
        """
        fault = form_fault(found.shared, self.server.initial_shared())
        try:
            if fault is not None:
                raise ValueError(fault)
            self.server.load_state(found.server)
            self.record = TrackRecord.from_json(found.record)
            self.trained = {site: int(number) for site, number in found.trained.items()}
        except Exception as error:
            raise CheckpointError(
                f"{path} does not fit the method's server half ({error}): resume with the "
                "configuration the run was started with, or put the file back from a backup"
            ) from error
        self.shared, self.rounds_done = found.shared, found.round_index

    def _record(self, events: list[Event]) -> None:
        self.log.append(events)
        for event in events:
            self.on_event(event)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
