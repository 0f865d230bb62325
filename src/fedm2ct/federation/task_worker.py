"""A long-lived worker that does a node's tasks: what flower-superexec and flwr-clientapp do.

Flower starts a process for each message, which imports everything, reads the site's data, and runs
code that the coordinator has sent. This worker is one process that a site starts once. It takes the
node's tasks with the same secret, and answers them with *its own* app: of what the coordinator
sends, only messages and numbers are used, no code is run.

It needs flwr's Runtime API, which is semi-private: imported here and in `control` only.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from fedm2ct.federation.flower import idle_wait, quicken_pulls

logger = logging.getLogger(__name__)
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_KIND = "flwr-clientapp"
_LONGEST_WAIT_S = 1.0


class TaskWorker:
    """Answers a node's tasks, one after the other, with an app of its own.

    Parameters
    ----------
    address
        The node's Runtime API on the loopback interface, ``host:port``.
    secret
        The secret that the node was started with.
    app
        The app that answers.
    on_failure
        Called with an exception that the app raised: its text stays at the site.
    message_timeout_s
        Longest wait for a message that has begun to arrive; None is Flower's two hours.
    """

    def __init__(
        self,
        address: str,
        secret: bytes,
        app: ClientApp,
        on_failure: Callable[[Exception], None] = lambda _: None,
        message_timeout_s: float | None = None,
    ) -> None:
        self._address = address
        self._secret = secret
        self._app = app
        self._on_failure = on_failure
        quicken_pulls(message_timeout_s)

    def run(self, stop: threading.Event) -> None:
        """Take tasks and answer them until `stop` is set."""
        guard = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods=[_ACQUIRE]
        )
        request = AcquireTaskRequest(supported_task_types=[_KIND])
        busy_at = time.monotonic()
        with contextlib.closing(self._client("SuperExec", guard)) as client:
            while not stop.is_set():
                try:
                    answer = client.AcquireTask(request)
                except httpx.TransportError:  # the node is not up yet, or starts again
                    stop.wait(_LONGEST_WAIT_S)
                    continue
                if answer.token:
                    self._do(answer.token)
                    busy_at = time.monotonic()
                stop.wait(idle_wait(time.monotonic() - busy_at, _LONGEST_WAIT_S))

    def _do(self, token: str) -> None:
        """Do one task; whatever goes wrong with it, the next one is taken.

        A task that could not be answered is left alone: a minute after its last heartbeat the node
        answers with an error by itself. Told that the task has failed, it would wait for ever.
        """
        guard = RuntimeTokenHttpInterceptor(token)
        with contextlib.closing(self._client("flwr-clientapp", guard)) as client:
            try:
                with _heartbeat(client):
                    message, context, _run, _bundle = pull_task_input(client)
                    push_message(client, self._answer(message, context), context)
                client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
            except Exception as error:  # the run was stopped, or the node is gone
                logger.warning("a task could not be answered: %s", type(error).__name__)
                self._on_failure(error)

    def _answer(self, message: Message, context: Context) -> Message:
        """Run the app; an exception leaves the site as its kind only, for its text may tell."""
        try:
            return self._app(message, context)
        except Exception as error:
            self._on_failure(error)
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__)
            return Message(reason, reply_to=message)

    def _client(
        self, component: str, guard: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor
    ) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # the loopback interface
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=component), guard],
        )


@contextlib.contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the node that the task is in work, for as long as it takes."""
    sender = HeartbeatSender(make_task_heartbeat_fn_http(client))
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()
