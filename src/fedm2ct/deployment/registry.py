"""Which sites may take part: their public keys as files, and the numbers Flower gave them.

``sites/NAME.pub`` is the registration; ``sites/nodes.json`` follows it. The coordinator's running
services bring Flower's own list in line with the files, so that a site is registered by putting a
file there, refused by taking it away, and known again after Flower's database was lost.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fedm2ct.deployment.certificates import read_public_key
from fedm2ct.deployment.folders import CoordinatorFolder, check_name
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import read_table, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from fedm2ct.federation.control import Control


def register(folder: CoordinatorFolder, name: str, key: Path) -> None:
    """Register a site under a name.

    Raises
    ------
    FedM2CTError
        If the name or the key cannot be used, or is in use.
    """
    check_name(name)
    read_public_key(key)
    data = key.read_bytes()
    for other, path in registered_keys(folder).items():
        if other == name and path.read_bytes() != data:
            raise FedM2CTError(
                f"{name}: is registered with another key; if the site has made a new one, remove "
                f"the old: fedm2ct coordinator remove {folder.root} {name}"
            )
        if other != name and path.read_bytes() == data:
            raise FedM2CTError(f"{key}: is the key of site {other}; every site needs its own")
    write_atomically(folder.sites / f"{name}.pub", data)


def remove(folder: CoordinatorFolder, name: str) -> None:
    """Refuse a site from now on.

    Raises
    ------
    FedM2CTError
        If there is none of this name.
    """
    path = registered_keys(folder).get(name)
    if path is None:
        raise FedM2CTError(f"{name}: is not registered")
    path.unlink()


def registered_keys(folder: CoordinatorFolder) -> dict[str, Path]:
    """Return the public keys' files by site."""
    return {path.stem: path for path in sorted(folder.sites.glob("*.pub"))}


def usable_keys(
    folder: CoordinatorFolder, tell: Callable[[str], None]
) -> "dict[str, EllipticCurvePublicKey]":
    """Return the public keys by site; `tell` is told, file by file, of what cannot be used."""
    keys = {}
    for name, path in registered_keys(folder).items():
        try:
            keys[check_name(name)] = read_public_key(path)
        except FedM2CTError as error:
            tell(f"site {name} is passed over: {error}")
    return keys


def registered_nodes(folder: CoordinatorFolder) -> dict[str, int]:
    """Return the number of each site's node, as far as Flower has given one."""
    return read_table(folder.nodes)


def bring_in_line(
    folder: CoordinatorFolder, control: "Control", tell: Callable[[str], None] = lambda _: None
) -> dict[str, int]:
    """Register in Flower what is registered here, and nothing else; return the nodes' numbers.

    `tell` is told of files that cannot be used; their sites are refused.

    Raises
    ------
    FedM2CTError
        If the SuperLink cannot be reached.
    """
    from fedm2ct.federation.control import public_key_bytes

    keys = usable_keys(folder, tell)
    there = {node.public_key: node.node_id for node in control.nodes()}
    wanted = {public_key_bytes(key): name for name, key in keys.items()}
    for key, node_id in there.items():
        if key not in wanted:
            control.unregister(node_id)
    nodes = {
        name: there[key] if key in there else control.register(name, keys[name])
        for key, name in wanted.items()
    }
    if nodes != registered_nodes(folder):
        write_atomically(folder.nodes, json.dumps(nodes, indent=1).encode(), mode=0o600)
    return nodes
