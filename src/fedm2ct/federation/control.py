"""What the coordinator asks of its own SuperLink: register sites, start a run, how it fares.

These calls need no credentials, which is why the SuperLink must be reachable on the loopback
interface only. The client is semi-private: imported here only.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedm2ct.errors import FedM2CTError

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_LICENCE = "Apache-2.0, see https://www.apache.org/licenses/LICENSE-2.0\n"
_BUNDLE = """\
[project]
name = "fedm2ct"
version = "{version}"
description = "Federated low-dose CT reconstruction: names of installed apps, no code and no data"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "fedm2ct"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "{apps}:server"
clientapp = "{apps}:client"

[tool.flwr.app.config]
job = ""
unit = ""
"""


@dataclass(frozen=True)
class Node:
    """A registered site as Flower knows it; `online` is whether it is connected."""

    node_id: int
    public_key: bytes
    online: bool


@dataclass(frozen=True)
class RunStatus:
    """A run's status: ``pending``, ``starting``, ``running`` or ``finished``, and how it ended."""

    status: str
    ended: str
    details: str


class Control:
    """The SuperLink's control calls.

    Parameters
    ----------
    address
        ``host:port`` on the loopback interface.
    authority
        Certificate that its certificate is checked against.
    """

    def __init__(self, address: str, authority: Path) -> None:
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def nodes(self) -> list[Node]:
        """Return the registered sites.

        Raises
        ------
        FedM2CTError
            If the SuperLink cannot be reached.
        """
        answer = _ask(self._client.ListNodes, ListNodesRequest())
        return [
            Node(n.node_id, n.public_key, n.status == "online")
            for n in answer.nodes_info
            if n.status != "unregistered"
        ]

    def register(self, name: str, key: ec.EllipticCurvePublicKey) -> int:
        """Register a site's key and return its node's number."""
        request = RegisterNodeRequest(public_key=public_key_to_bytes(key), name=name)
        return int(_ask(self._client.RegisterNode, request).node_id)

    def unregister(self, node_id: int) -> None:
        """Refuse a site from now on."""
        _ask(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run of an app bundle and return its number."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config))
        )
        return int(_ask(self._client.StartRun, request).run_id)

    def stop_run(self, run_id: int) -> None:
        """Stop a run."""
        _ask(self._client.StopRun, StopRunRequest(run_id=run_id))

    def run_status(self, run_id: int) -> RunStatus:
        """Return how a run fares."""
        run = _ask(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict[run_id]
        status = run.status
        return RunStatus(status.status, status.sub_status, status.details)


def app_bundle(apps: str, version: str) -> bytes:
    """Return the bundle that Flower sends to every site: names of apps, no code and no data.

    Parameters
    ----------
    apps
        The installed module that holds ``server`` and ``client``.
    version
        This project's version, three numbers.
    """
    files = {
        "pyproject.toml": _BUNDLE.format(version=version, apps=apps).encode(),
        "LICENSE": _LICENCE.encode(),
    }
    return build_fab_from_files(files)[0]


def public_key_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a key as `Node.public_key` holds it."""
    return bytes(public_key_to_bytes(key))


def _ask(call: Callable[[Request], Answer], request: Request) -> Answer:
    """Make a call; say in a sentence why it failed."""
    try:
        return call(request)
    except httpx.HTTPStatusError as error:
        if error.response.is_server_error:
            raise FedM2CTError(
                "the coordinator's SuperLink cannot work; logs/superlink.log in the coordinator's "
                "folder says why: if its disk is full, free some space and go on with --resume"
            ) from None
        raise FedM2CTError(
            f"the coordinator's SuperLink refused a call ({error.response.text[:300]})"
        ) from None
    except httpx.HTTPError as error:
        raise FedM2CTError(
            f"the coordinator's SuperLink cannot be reached ({type(error).__name__}); start it "
            "with: fedm2ct coordinator up FOLDER"
        ) from None
