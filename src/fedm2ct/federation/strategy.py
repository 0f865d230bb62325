"""The server's half of a method as a Flower Strategy."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.compression import EncodingError, decode_upload
from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload
from fedm2ct.federation.records import (
    MalformedMessageError,
    Receipt,
    arrays_from_state,
    download,
    new_nonce,
    read_metrics,
    read_upload,
    state_from_arrays,
    uploaded_digest,
    wire_digest,
)
from fedm2ct.federation.spool import Spool
from fedm2ct.federation.validation import (
    Limits,
    Rejected,
    TrackRecord,
    check_aggregate,
    validate_uploads,
)

NO_REPLY = "no reply within the time allowed"


class EmptyRoundError(FedM2CTError):
    """No site's upload of a round could be used."""


@dataclass(frozen=True)
class RoundReport:
    """What became of a round.

    Attributes
    ----------
    round_index
        Number of the round in the whole run, counted from 1.
    uploads
        The accepted uploads and those of sites that abstain, sorted by site name.
    dropped
        Uploads that validation refused.
    failed
        Sites that sent an error instead, or nothing.
    aggregate
        What the server's half made of it.
    seconds
        Time that validation and aggregation took.
    nonce
        What the replies had to repeat.
    sent, fused
        `wire_digest` of the parameters that the sites started from, and of those of the next round.
    received
        By site, the `wire_digest` of what its reply held.
    """

    round_index: int
    uploads: list[Upload]
    dropped: list[Rejected]
    failed: list[Rejected]
    aggregate: Aggregate
    seconds: float
    nonce: str
    sent: str
    fused: str
    received: Mapping[str, str]

    @property
    def excluded(self) -> list[tuple[str, str, str]]:
        """Everyone who was left out: site, what became of it, and why."""
        kinds = (("dropped", self.dropped), ("failed", self.failed))
        return [(r.site, kind, r.reason) for kind, excluded in kinds for r in excluded]

    @property
    def heard(self) -> set[str]:
        """The sites of this run that have replied, whatever they said."""
        return set(self.received)


@dataclass(frozen=True)
class FinalReport:
    """The end: what was sent, the sites' scalars by site name, and who failed."""

    sent: str
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[Rejected] = field(default_factory=list)


@dataclass
class _Replies:
    """What came back of a round."""

    uploads: list[Upload] = field(default_factory=list)
    dropped: list[Rejected] = field(default_factory=list)
    failed: list[Rejected] = field(default_factory=list)
    received: dict[str, str] = field(default_factory=dict)


class MethodStrategy(Strategy):
    """Carries a `ServerHalf` through Flower's rounds.

    Flower counts the rounds of a call of `start` from 1; `rounds_done` is added, so that a resumed
    run keeps its numbers.

    Parameters
    ----------
    server
        The server's half of the method.
    shared
        The shared parameters to begin with.
    sites
        Name of the site at each node.
    rounds_done
        Rounds that were finished before.
    on_round
        Called after each round, before the next one starts: to log and to store.
    limits
        Bounds for uploads.
    record
        What validation remembers of the rounds that were finished before; it is written to.
    spool
        Folder for the uploads of the running round; one for temporary files by default.
    """

    def __init__(
        self,
        server: ServerHalf,
        shared: State,
        sites: Mapping[int, str],
        *,
        rounds_done: int = 0,
        on_round: Callable[[RoundReport], None] = lambda _: None,
        limits: Limits | None = None,
        record: TrackRecord | None = None,
        spool: Path | None = None,
    ) -> None:
        self._server = server
        self._sites = sites
        self._rounds_done = rounds_done
        self._on_round = on_round
        self._limits = limits or Limits()
        self._record = TrackRecord() if record is None else record
        self._spool = spool
        self._asked: dict[int, str] = {}
        self._expected = Receipt(0, "", "")
        self.shared = shared

    def run(self, grid: Grid, rounds: int, timeout: float = 3600.0) -> FinalReport:
        """Go on to round `rounds`, then hand the final shared parameters to every site.

        Parameters
        ----------
        grid
            The grid that reaches the sites.
        rounds
            Number of rounds of the whole run, those done before included.
        timeout
            Longest wait for a round's replies, in seconds, where the grid keeps one.
        """
        remaining = rounds - self._rounds_done
        if remaining > 0:
            self.start(grid, arrays_from_state(self.shared), remaining, timeout)
        return self._finish(grid, rounds, timeout)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the shared parameters to every site, in the order of the sites' names."""
        return self._messages(MessageType.TRAIN, arrays, self._rounds_done + server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Validate the uploads and let the server's half fuse them.

        Raises
        ------
        EmptyRoundError
            If no upload can be used.
        FedM2CTError
            If the aggregate is unusable.
        """
        like = self._server.upload_like(self.shared)
        with Spool(self._spool) as spool:
            found = self._read(replies, like, spool)
            return self._conclude(self._rounds_done + server_round, like, found)

    def _conclude(
        self, round_index: int, like: State, found: _Replies
    ) -> tuple[ArrayRecord, MetricRecord]:
        started = time.monotonic()
        abstaining = [upload for upload in found.uploads if upload.abstains]
        taking_part = [upload for upload in found.uploads if not upload.abstains]
        uploads, rejected = validate_uploads(
            taking_part, like, self._limits, self._server.fault, self._record
        )
        dropped = found.dropped + rejected
        if not uploads:
            raise EmptyRoundError(_nobody_left(round_index, dropped + found.failed))
        self._record.counted |= {upload.site: round_index for upload in uploads}
        aggregate = self._server.aggregate(round_index, self.shared, uploads)
        check_aggregate(round_index, aggregate.shared, self.shared)
        arrays = arrays_from_state(aggregate.shared)
        self.shared = state_from_arrays(arrays)
        report = RoundReport(
            round_index,
            sorted([*uploads, *abstaining], key=lambda upload: upload.site),
            dropped,
            found.failed,
            aggregate,
            time.monotonic() - started,
            self._expected.nonce,
            self._expected.sent,
            wire_digest(arrays),
            found.received,
        )
        self._on_round(report)
        return arrays, MetricRecord({n: float(v) for n, v in aggregate.metrics.items()})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nothing between rounds: the methods measure while they train."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing, as nothing was asked."""
        return None

    def summary(self) -> None:
        """Say nothing: the run's own log tells more."""

    def _finish(self, grid: Grid, rounds: int, timeout: float) -> FinalReport:
        messages = self._messages(MessageType.EVALUATE, arrays_from_state(self.shared), rounds)
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        report = FinalReport(self._expected.sent)
        for reply in replies:
            site = self._asked.pop(reply.metadata.src_node_id, None)
            if site is None:
                continue  # nobody who was asked, or a second answer
            try:
                if reply.has_error():
                    raise MalformedMessageError(reply.error.reason or "unknown error")
                report.metrics[site] = read_metrics(reply)
            except MalformedMessageError as error:
                report.failed.append(Rejected(site, str(error)))
        report.failed.extend(Rejected(site, NO_REPLY) for site in self._asked.values())
        return report

    def _messages(self, kind: str, arrays: ArrayRecord, round_index: int) -> list[Message]:
        """Return a message to every site that is there now, and remember what they must answer."""
        self._expected = Receipt(round_index, new_nonce(), wire_digest(arrays))
        self._asked = dict(sorted(self._sites.items(), key=lambda item: item[1]))
        return [
            Message(
                download(
                    arrays, round_index, self._expected.nonce, self._record.last_counted(site)
                ),
                node,
                kind,
                group_id=str(round_index),
            )
            for node, site in self._asked.items()
        ]

    def _read(self, replies: Iterable[Message], like: State, spool: Spool) -> _Replies:
        """Sort replies into uploads, those that cannot be read, and sites that failed.

        One upload is in memory at a time, if the grid hands replies over one by one.
        """
        found = _Replies()
        for reply in replies:
            site = self._asked.get(reply.metadata.src_node_id)
            if site is None:
                stranger = f"node {reply.metadata.src_node_id}"
                found.dropped.append(Rejected(stranger, "is no site that was asked"))
                continue
            if reply.has_error():
                found.received.setdefault(site, "")
                found.failed.append(Rejected(site, reply.error.reason or "unknown error"))
                continue
            try:
                found.received.setdefault(site, uploaded_digest(reply))
                upload = read_upload(reply, self._expected, like)
                if upload.site != site:
                    raise MalformedMessageError(f"the upload says that it is {upload.site}'s")
                found.uploads.append(spool.keep(self._decoded(upload, like)))
            except (MalformedMessageError, EncodingError) as error:
                found.dropped.append(Rejected(site, str(error)))
        absent = sorted(set(self._asked.values()) - set(found.received))
        found.failed.extend(Rejected(site, NO_REPLY) for site in absent)
        return found

    def _decoded(self, upload: Upload, like: State) -> Upload:
        if self._server.compression == "none" or upload.abstains:
            return upload
        return replace(upload, shared=decode_upload(upload.shared, like, self._server.compression))


def _nobody_left(round_index: int, excluded: list[Rejected]) -> str:
    reasons = "; ".join(f"{r.site}: {r.reason}" for r in sorted(excluded, key=lambda r: r.site))
    return (
        f"round {round_index}: no site's upload could be used ({reasons or 'no site replied'}); "
        "correct the cause and resume the run"
    )
