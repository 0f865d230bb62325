"""Flower's grid across a network, with the project's patience: who is awaited, and for how long.

Around the grid that Flower gives a server app. Replies are looked for often (flwr 1.41 does so
every three seconds), the bytes of every exchange are counted as in one process, and a site that is
not connected or does not answer in time is an error reply of its own, with a reason, so that a
round is accounted for site by site.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.flower import idle_wait
from fedm2ct.federation.grid import SitesGrid, Traffic
from fedm2ct.federation.packing import packed, unpacked
from fedm2ct.federation.records import MalformedMessageError, to_wire

_LONGEST_POLL_S = 3.0
_CONNECTED_POLL_S = 0.5


@dataclass(frozen=True)
class Patience:
    """How long is waited for what, in seconds.

    Attributes
    ----------
    round_s
        For a round's replies.
    begin_s
        For all sites to be connected before the first round.
    return_s
        For a site that took part in the round before and is not connected now: Flower refuses a
        crashed node for about a minute. No longer than for a round's replies.
    minimum_sites
        Fewest connected sites to begin with.
    """

    round_s: float = 3600.0
    begin_s: float = 600.0
    return_s: float = 90.0
    minimum_sites: int = 1


class RemoteGrid(SitesGrid):
    """A grid whose nodes are the registered sites.

    Parameters
    ----------
    grid
        Flower's own grid.
    sites
        Name of the site at each node.
    patience
        How long is waited.
    on_reply
        Called with the site's name and the traffic after each exchange.
    warn
        Told, in a sentence, about a site that is not there.
    """

    def __init__(
        self,
        grid: Grid,
        sites: Mapping[int, str],
        patience: Patience,
        on_reply: Callable[[str, Traffic], None] = lambda *_: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._grid = grid
        self._sites = dict(sites)
        self._patience = patience
        self._on_reply = on_reply
        self._warn = warn
        self._expected = set(self._sites)
        self._late: dict[str, int] = {}  # messages without an answer, and their nodes
        self.traffic: dict[str, Traffic] = {}

    @property
    def run(self) -> Run:
        """Run information, as Flower wants it."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run information."""
        self._grid.set_run(run)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the sites that are connected."""
        return sorted(set(self._grid.get_node_ids()) & set(self._sites))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to Flower; return the ids to pull replies with."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._grid.pull_messages(message_ids)

    def await_sites(self) -> None:
        """Wait for the sites before the first round.

        Raises
        ------
        FedM2CTError
            If too few have connected in time.
        """
        online = self._await(set(self._sites), self._patience.begin_s)
        if len(online) < self._patience.minimum_sites:
            raise FedM2CTError(
                f"{len(online)} of {len(self._sites)} sites are connected after "
                f"{self._patience.begin_s:.0f} s, fewer than the {self._patience.minimum_sites} "
                "that the coordinator demands; start the others and resume"
            )
        self._expected = online

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send to the sites that are connected; return a reply, or an error, for each site."""
        wanted = {message.metadata.dst_node_id: message for message in messages}
        if not wanted:
            return []
        started = time.monotonic()
        self.traffic = {}
        patience = min(self._patience.return_s, self._patience.round_s)
        online = self._await(self._expected & set(wanted), patience) & set(wanted)
        self._take_late_answers()
        busy = set(self._late.values())
        replies = [
            self._error(
                message, "busy with an earlier round" if node in online else "not connected"
            )
            for node, message in wanted.items()
            if node not in online or node in busy
        ]
        sent = [message for node, message in wanted.items() if node in online - busy]
        replies += self._exchange(sent, started) if sent else []
        for reply in replies:
            site = self._sites[reply.metadata.src_node_id]
            if site not in self.traffic:
                self.traffic[site] = Traffic(0, 0, time.monotonic() - started)
        self._expected = online
        return sorted(replies, key=lambda r: self._sites[r.metadata.src_node_id])

    def _exchange(self, sent: Sequence[Message], started: float) -> list[Message]:
        """Push messages and pull replies until all are there or the time is over."""
        for message in sent:
            message.content = packed(message.content)
        awaiting, replies = self._pushed(sent)
        began = time.monotonic()
        while awaiting and time.monotonic() < began + self._patience.round_s:
            for reply in self._grid.pull_messages(list(awaiting)):
                answered = reply.metadata.reply_to_message_id
                if answered not in awaiting:
                    continue  # a second answer
                message = awaiting.pop(answered)
                node = message.metadata.dst_node_id
                if reply.metadata.src_node_id != node:  # Flower answers for a node it has lost
                    reply = self._error(message, _reason(reply))
                self._count(message, reply, started)
                replies.append(self._opened(reply, message))
            if awaiting:
                time.sleep(idle_wait(time.monotonic() - began, _LONGEST_POLL_S))
        for message_id, message in awaiting.items():
            self._late[message_id] = message.metadata.dst_node_id
            reason = f"no answer within {self._patience.round_s:.0f} s"
            replies.append(self._error(message, reason))
        return replies

    def _pushed(self, sent: Sequence[Message]) -> tuple[dict[str, Message], list[Message]]:
        """Hand messages to Flower; return those on their way by id, and errors for the others."""
        ids: list[str | None] = list(self._grid.push_messages(sent))
        ids += [None] * (len(sent) - len(ids))  # Flower returns none at all if it is too much
        awaiting = {i: message for i, message in zip(ids, sent, strict=True) if i}
        lost = [message for i, message in zip(ids, sent, strict=True) if not i]
        return awaiting, [
            self._error(message, "Flower did not take the message") for message in lost
        ]

    def _take_late_answers(self) -> None:
        """Drop answers to earlier rounds: their sites are free again."""
        if self._late:
            for reply in self._grid.pull_messages(list(self._late)):
                self._late.pop(reply.metadata.reply_to_message_id, None)

    def _opened(self, reply: Message, message: Message) -> Message:
        if reply.has_content():
            try:
                reply.content = unpacked(reply.content)
            except MalformedMessageError as error:
                return self._error(message, str(error))
        return reply

    def _count(self, message: Message, reply: Message, started: float) -> None:
        site = self._sites[message.metadata.dst_node_id]
        down, up = len(to_wire(message, "")), len(to_wire(reply, ""))
        self.traffic[site] = Traffic(down, up, time.monotonic() - started)
        self._on_reply(site, self.traffic[site])

    def _await(self, nodes: set[int], seconds: float) -> set[int]:
        """Wait until nodes are connected or the time is over; return all that are connected."""
        deadline = time.monotonic() + seconds
        told = False
        while True:
            online = set(self.get_node_ids())
            if nodes <= online or time.monotonic() >= deadline:
                return online
            if not told:
                missing = sorted(self._sites[node] for node in nodes - online)
                self._warn(f"waiting up to {seconds:.0f} s for {', '.join(missing)}")
                told = True
            time.sleep(_CONNECTED_POLL_S)

    def _error(self, message: Message, reason: str) -> Message:
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)


def _reason(reply: Message) -> str:
    return (reply.error.reason if reply.has_error() else "") or "Flower has lost the message"
