"""Flower's grid inside this process: no sockets, no threads, one site after the other.

Every message is turned into bytes and back on its way, both ways: the byte counts are those of a
real network, and nothing can pass by reference that would not pass through a cable.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity  # semi-private: imported nowhere else

from fedm2ct.federation.records import from_wire, to_wire
from fedm2ct.federation.storage import CheckpointError
from fedm2ct.files import StorageError

_RUN_ID = 1
_FIRST_SITE_NODE = SUPERLINK_NODE_ID + 1


@dataclass(frozen=True)
class Traffic:
    """One exchange between the server and a site.

    Attributes
    ----------
    bytes_down
        Length of the serialised message to the site.
    bytes_up
        Length of the serialised reply.
    seconds
        Wall-clock time from one to the other.
    """

    bytes_down: int
    bytes_up: int
    seconds: float


class SitesGrid(Grid):
    """A grid whose nodes are sites with names."""

    _sites: dict[int, str]

    @property
    def sites(self) -> Mapping[int, str]:
        """Name of the site at each node."""
        return self._sites

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class LocalGrid(SitesGrid):
    """A grid whose nodes all live in this process.

    Parameters
    ----------
    app
        The client app that every node runs; it tells nodes apart by ``node_config["site"]``.
    sites
        Names of the sites: one node each, in this order.
    on_reply
        Called with the site's name and the traffic after each exchange.
    """

    def __init__(
        self,
        app: ClientApp,
        sites: Sequence[str],
        on_reply: Callable[[str, Traffic], None] | None = None,
    ) -> None:
        self._app = app
        self._sites = dict(enumerate(sites, start=_FIRST_SITE_NODE))
        self._contexts = {
            node: Context(_RUN_ID, node, {"site": site}, RecordDict(), {})
            for node, site in self._sites.items()
        }
        self._on_reply = on_reply
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._run = Run.create_empty(_RUN_ID)
        self.traffic: dict[str, Traffic] = {}  # of what was pushed last
        # A message takes its sender from these class-wide values when it is made.
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = _RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    @property
    def run(self) -> Run:
        """Run information, as Flower wants it."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set the run information."""
        self._run = run

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes, in the order of the sites."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver each message and run its node at once; return the ids to pull replies with."""
        ids = []
        self.traffic = {}
        for message in messages:
            self._sent += 1
            message_id = f"{self._sent:08d}"
            self._replies[message_id] = self._exchange(message, message_id)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages pushed before, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield each reply as soon as its node has run, before the next one runs.

        So a server that reads replies as they come has one in memory at a time. There is no timeout
        inside one process.
        """
        traffic: dict[str, Traffic] = {}
        for message in messages:
            ids = self.push_messages([message])
            traffic.update(self.traffic)
            self.traffic = traffic
            yield from self.pull_messages(ids)

    def _exchange(self, message: Message, message_id: str) -> Message:
        started = time.monotonic()
        down = to_wire(message, message_id)
        up = to_wire(self._run_app(from_wire(down)), f"{message_id}r")
        site = self._sites[message.metadata.dst_node_id]
        self.traffic[site] = Traffic(len(down), len(up), time.monotonic() - started)
        if self._on_reply is not None:
            self._on_reply(site, self.traffic[site])
        return from_wire(up)

    def _run_app(self, message: Message) -> Message:
        """Run the client app as Flower's own nodes do: an exception becomes an error reply."""
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except (CheckpointError, StorageError):
            raise  # a site that cannot store its private state makes the run impossible to resume
        except Exception as error:
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__)
            return Message(reason, reply_to=message)
