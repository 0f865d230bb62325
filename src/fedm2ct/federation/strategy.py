"""The server's half of a method as a Flower Strategy."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import Aggregate, ServerHalf, State, Upload
from fedm2ct.federation.records import (
    MalformedMessageError,
    arrays_from_state,
    download,
    read_metrics,
    read_upload,
    state_from_arrays,
)
from fedm2ct.federation.validation import Limits, Rejected, check_aggregate, validate_uploads


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
        Sites that sent an error instead.
    aggregate
        What the server's half made of it.
    seconds
        Time that validation and aggregation took.
    """

    round_index: int
    uploads: list[Upload]
    dropped: list[Rejected]
    failed: list[Rejected]
    aggregate: Aggregate
    seconds: float


@dataclass(frozen=True)
class FinalReport:
    """What the sites said at the end: their scalars by site name, and who failed."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[Rejected] = field(default_factory=list)


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
    ) -> None:
        self._server = server
        self._sites = sites
        self._rounds_done = rounds_done
        self._on_round = on_round
        self._limits = limits or Limits()
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
        started = time.monotonic()
        round_index = self._rounds_done + server_round
        received, dropped, failed = self._read(replies)
        like = self._server.upload_like(self.shared)
        abstaining = [upload for upload in received if upload.abstains]
        taking_part = [upload for upload in received if not upload.abstains]
        uploads, rejected = validate_uploads(taking_part, like, self._limits, self._server.fault)
        dropped += rejected
        if not uploads:
            raise EmptyRoundError(_nobody_left(round_index, dropped + failed))
        aggregate = self._server.aggregate(round_index, self.shared, uploads)
        check_aggregate(round_index, aggregate.shared, self.shared)
        arrays = arrays_from_state(aggregate.shared)
        self.shared = state_from_arrays(arrays)
        seconds = time.monotonic() - started
        heard = sorted([*uploads, *abstaining], key=lambda upload: upload.site)
        self._on_round(RoundReport(round_index, heard, dropped, failed, aggregate, seconds))
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
        report = FinalReport()
        for reply in grid.send_and_receive(messages, timeout=timeout):
            site = self._sites[reply.metadata.src_node_id]
            try:
                if reply.has_error():
                    raise MalformedMessageError(reply.error.reason or "unknown error")
                report.metrics[site] = read_metrics(reply)
            except MalformedMessageError as error:
                report.failed.append(Rejected(site, str(error)))
        return report

    def _messages(self, kind: str, arrays: ArrayRecord, round_index: int) -> Iterable[Message]:
        for node, _ in sorted(self._sites.items(), key=lambda item: item[1]):
            content = download(arrays, round_index)
            yield Message(content, node, kind, group_id=str(round_index))

    def _read(
        self, replies: Iterable[Message]
    ) -> tuple[list[Upload], list[Rejected], list[Rejected]]:
        """Sort replies into uploads, those that cannot be read, and sites that failed."""
        uploads: list[Upload] = []
        dropped: list[Rejected] = []
        failed: list[Rejected] = []
        for reply in replies:
            site = self._sites[reply.metadata.src_node_id]
            if reply.has_error():
                failed.append(Rejected(site, reply.error.reason or "unknown error"))
                continue
            try:
                upload = read_upload(reply)
                if upload.site != site:
                    raise MalformedMessageError(f"the upload says that it is {upload.site}'s")
                uploads.append(upload)
            except MalformedMessageError as error:
                dropped.append(Rejected(site, str(error)))
        return uploads, dropped, failed


def _nobody_left(round_index: int, excluded: list[Rejected]) -> str:
    reasons = "; ".join(f"{r.site}: {r.reason}" for r in sorted(excluded, key=lambda r: r.site))
    return (
        f"round {round_index}: no site's upload could be used ({reasons or 'no site replied'}); "
        "correct the cause and resume the run"
    )
