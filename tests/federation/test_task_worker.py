"""A site's worker answers with its own app, whatever the coordinator sends along."""

import threading
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from fedm2ct.federation import task_worker
from fedm2ct.federation.task_worker import TaskWorker

BUNDLE = SimpleNamespace(content=b"import os; os.system('touch /tmp/owned')", hash_str="0" * 64)


class Node:
    """Stands in for a node's Runtime API: hands out tasks, takes answers."""

    def __init__(self, tasks):
        self.tasks, self.answers, self.outputs, self.stop = list(tasks), [], [], threading.Event()

    def client(self, component, guard):
        return self

    def close(self):
        pass

    def AcquireTask(self, request):
        assert list(request.supported_task_types) == ["flwr-clientapp"]
        if not self.tasks:
            self.stop.set()
            return SimpleNamespace(token="")
        if isinstance(self.tasks[0], Exception):
            raise self.tasks.pop(0)
        return SimpleNamespace(token=self.tasks.pop(0))

    def SendTaskHeartbeat(self, request):
        return SimpleNamespace(success=True)

    def PushTaskOutput(self, request):
        self.outputs.append(request.sub_status)


@pytest.fixture
def answered(monkeypatch):
    """Let a worker do tasks with an app; return the node, and what failed at the site."""
    monkeypatch.setattr(task_worker, "_LONGEST_WAIT_S", 0.01)

    def run(app, tasks, pull=None):
        node, failures = Node(tasks), []
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

        def message(client):
            context = Context(1, 2, {}, RecordDict(), {})
            return Message(RecordDict(), 2, "train"), context, SimpleNamespace(), BUNDLE

        worker = TaskWorker("127.0.0.1:9", b"secret", app, failures.append)
        monkeypatch.setattr(worker, "_client", node.client)
        monkeypatch.setattr(task_worker, "pull_task_input", pull or message)
        monkeypatch.setattr(
            task_worker, "push_message", lambda client, reply, context: node.answers.append(reply)
        )
        worker.run(node.stop)
        return node, failures

    return run


def app_of(function):
    app = ClientApp()
    app.train()(function)
    return app


def test_the_sites_own_app_answers_and_the_bundle_is_never_read(answered):
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    node, failures = answered(app_of(train), ["token-1", "token-2"])
    assert [reply.has_content() for reply in node.answers] == [True, True]
    assert node.outputs == ["completed", "completed"]
    assert not failures


def test_the_text_of_an_exception_stays_at_the_site(answered):
    def train(message, context):
        raise ValueError("patient 4711 has no slices")

    node, failures = answered(app_of(train), ["token"])
    (reply,) = node.answers
    assert reply.error.reason == "ValueError"
    assert str(failures[0]) == "patient 4711 has no slices"


def test_a_task_that_is_gone_does_not_end_the_worker(answered):
    calls = []

    def pull(client):
        calls.append(client)
        raise RuntimeError("No messages received from Runtime API")

    node, failures = answered(app_of(lambda m, c: None), ["token-1", "token-2"], pull)
    assert len(calls) == 2 and not node.answers
    assert not node.outputs  # told of a failure, flwr's node waits for an answer for ever
    assert len(failures) == 2


def test_a_node_that_is_not_up_yet_is_waited_for(answered):
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    node, _ = answered(app_of(train), [httpx.ConnectError("refused"), "token"])
    assert len(node.answers) == 1
