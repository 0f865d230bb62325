"""What runs, what is connected, what was done last: lines for a person to read."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from fedm2ct.deployment.certificates import days_left
from fedm2ct.deployment.folders import CoordinatorFolder, SiteFolder
from fedm2ct.deployment.processes import read_status
from fedm2ct.deployment.registry import usable_keys
from fedm2ct.errors import FedM2CTError

Report = tuple[list[str], bool]
"""Lines, and whether all is well."""


def coordinator_status(folder: CoordinatorFolder) -> Report:
    """Return the coordinator's services and sites.

    Raises
    ------
    FedM2CTError
        If the folder is none of a coordinator.
    """
    settings = folder.settings()
    lines, well = _services(folder.state / "services.json")
    lines.append(f"certificate   valid for {days_left(folder.certificate)} days")
    try:
        online = _online(folder, settings.superlink_port, lines.append)
    except FedM2CTError as error:
        return [*lines, f"sites         unknown: {error}"], False
    for name, connected in online.items():
        lines.append(f"site {name:<8} {'connected' if connected else 'not connected'}")
    return lines, well


def _online(folder: CoordinatorFolder, port: int, tell: Callable[[str], None]) -> dict[str, bool]:
    from fedm2ct.federation.control import Control, public_key_bytes

    control = Control(f"127.0.0.1:{port}", folder.authority)
    try:
        online = {node.public_key: node.online for node in control.nodes()}
    finally:
        control.close()
    keys = usable_keys(folder, tell)
    return {name: online.get(public_key_bytes(key), False) for name, key in keys.items()}


def site_status(folder: SiteFolder) -> Report:
    """Return the site's services and the last round of every run.

    Raises
    ------
    FedM2CTError
        If the folder is none of a site.
    """
    settings = folder.settings()
    lines, well = _services(folder.state / "services.json")
    joined = folder.invitation.exists()
    lines.append(f"coordinator   {folder.joined().coordinator if joined else 'not joined yet'}")
    for place in sorted(folder.runs.glob(f"*/*/seed-*/sites/{settings.name}")):
        states = sorted(place.glob("private-*.safetensors"))
        if states:
            unit = place.parent.parent.relative_to(folder.runs)
            lines.append(f"run {unit}: round {int(states[-1].stem.partition('-')[2])}")
    return lines, well and joined


def _services(path: Path) -> Report:
    status = read_status(path)
    if status is None or not status["alive"]:
        return ["services      not running"], False
    lines = [_service(name, service) for name, service in status["services"].items()]
    return lines, all(service["alive"] for service in status["services"].values())


def _service(name: str, service: dict[str, Any]) -> str:
    if not service["alive"]:
        return f"{name:<13} down (exit code {service['last_exit']}), will be started again"
    since = datetime.fromtimestamp(service["since"]).astimezone().isoformat(timespec="seconds")
    return f"{name:<13} process {service['pid']}, since {since}, start {service['starts']}"
