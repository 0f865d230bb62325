"""What a coordinator tells every site of a unit of work: one method under one seed."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedm2ct.config import RunConfig
from fedm2ct.deployment.federation_file import config_for_sites, protocol_hash
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods.cross_protocol_client import simulates_protocols
from fedm2ct.physics.protocol_files import protocol_text, unnamed
from fedm2ct.physics.protocols import Protocol, protocol_to_dict

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class UnitOfWork:
    """A unit of work as it travels, beside the messages of its rounds.

    Attributes
    ----------
    run
        Name of the run, unique: a run that is started anew gets another one.
    method, seed
        What is trained.
    fingerprint
        Hash of the coordinator's configuration.
    members
        A hash of each site's name, protocol and registered key. The others do not know the key, so
        they cannot try names and protocols.
    config
        The configuration as far as sites are told of it.
    protocols
        Every site's protocol, unnamed, where the method simulates them at the sites; else none.
    """

    run: str
    method: str
    seed: int
    fingerprint: str
    members: list[str]
    config: dict[str, Any]
    protocols: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def folder(self) -> str:
        """Folder of the unit within a site's runs."""
        return f"{self.run}/{self.method}/seed-{self.seed}"


def describe(
    run: str,
    config: RunConfig,
    protocols: Mapping[str, Protocol],
    method: str,
    seed: int,
    fingerprint: str,
    keys: Mapping[str, str],
) -> UnitOfWork:
    """Return what sites are told of a unit of work; `keys` are their public ones as text."""
    members = sorted(member(name, protocols[name], keys[name]) for name in protocols)
    told = protocols.values() if simulates_protocols(method, config) else ()
    known = [protocol_to_dict(p) for p in sorted(map(unnamed, told), key=protocol_text)]
    return UnitOfWork(run, method, seed, fingerprint, members, config_for_sites(config), known)


def member(name: str, protocol: Protocol, key: str) -> str:
    """Return the hash by which a site finds itself among the members."""
    return hashlib.sha256(f"{name}\n{protocol_hash(protocol)}\n{key}".encode()).hexdigest()


def unit_from_json(text: str) -> UnitOfWork:
    """Read what `UnitOfWork.to_json` wrote; nothing in it may lead out of the site's folder.

    Raises
    ------
    FedM2CTError
        If it is none.
    """
    try:
        unit = UnitOfWork(**json.loads(text))
    except (ValueError, TypeError):
        raise FedM2CTError("the coordinator's message describes no unit of work") from None
    words = (unit.run, unit.method, unit.fingerprint)
    if not all(isinstance(w, str) and _WORD.fullmatch(w) for w in words):
        raise FedM2CTError("the coordinator's message names a run or a method that cannot be one")
    if not isinstance(unit.seed, int) or not isinstance(unit.config, dict):
        raise FedM2CTError("the coordinator's message has no seed or no configuration")
    if not isinstance(unit.protocols, list):
        raise FedM2CTError("the coordinator's message has no list of protocols")
    return unit
