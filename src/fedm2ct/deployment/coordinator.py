"""The coordinator: its folder, and the services that run from it."""

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fedm2ct.deployment import certificates
from fedm2ct.deployment.folders import (
    FOLDER_VARIABLE,
    CoordinatorFolder,
    private_folder,
    refuse_existing,
)
from fedm2ct.deployment.processes import Service, Supervisor
from fedm2ct.deployment.proxy import proxy_config
from fedm2ct.deployment.registry import bring_in_line
from fedm2ct.deployment.settings import CoordinatorSettings
from fedm2ct.deployment.systemd import systemd_unit
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically

if TYPE_CHECKING:
    from fedm2ct.federation.control import Control

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
_LOOK_S = 5.0
_START_LOOK_S = 1.0
_SETTINGS = """\
# Written by `fedm2ct coordinator init`; after a change, start `fedm2ct coordinator up` again.
host = "{host}"              # how sites name this machine; it is in the certificate
port = {port}                # the only port that must be reachable from outside
listen = "{listen}"          # address that the proxy binds
superlink_port = {superlink_port}      # Flower's server, on 127.0.0.1 only
proxy = {proxy}                # false: a proxy of the house passes on what nginx.conf here does
wait_for_sites_s = 600.0     # before the first round, for all sites to be connected
round_timeout_s = 3600.0     # for the sites' answers in a round
minimum_sites = 1            # fewest connected sites to begin with
"""
_INVITATION = """\
# The coordinator's address and the authority that vouches for it. Nothing here is secret, but
# compare the fingerprint over the telephone before joining:
# {fingerprint}
coordinator = "{address}"
authority = '''
{authority}'''
"""


def check_folder_name(root: Path) -> Path:
    """Return a folder's absolute path if nginx and systemd can read it as one word.

    Raises
    ------
    FedM2CTError
        If it holds spaces or signs that have a meaning there.
    """
    absolute = root.expanduser().absolute()
    if not _PLAIN_PATH.fullmatch(str(absolute)):
        raise FedM2CTError(
            f"{absolute}: use a path of letters, digits, '.', '_' and '-' only; nginx and systemd "
            "read its name"
        )
    return absolute


def init_coordinator(root: Path, settings: CoordinatorSettings) -> CoordinatorFolder:
    """Make a coordinator's folder: keys, certificates, proxy, invitation, systemd unit.

    Raises
    ------
    FedM2CTError
        If the folder is in use already or cannot be written to.
    """
    folder = CoordinatorFolder(check_folder_name(root))
    refuse_existing(folder.root, folder.settings_file)
    for path in (folder.root, folder.keys, folder.sites, folder.state, folder.logs, folder.jobs):
        private_folder(path)
    certificates.make_authority(folder.authority_key, folder.authority)
    renew_certificate(folder, settings.host)
    certificates.make_secret(folder.secret)
    authority = folder.authority.read_text(encoding="ascii")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    invitation = _INVITATION.format(
        fingerprint=certificates.certificate_fingerprint(authority.encode()),
        address=f"{host}:{settings.port}",
        authority=authority,
    )
    write_atomically(folder.invitation, invitation.encode())
    write_atomically(folder.proxy_config, proxy_config(folder, settings).encode())
    file, text = systemd_unit("coordinator", folder.root)
    write_atomically(folder.root / file, text.encode())
    words = {**settings.model_dump(), "proxy": str(settings.proxy).lower()}
    write_atomically(folder.settings_file, _SETTINGS.format(**words).encode())
    return folder


def renew_certificate(folder: CoordinatorFolder, host: str) -> None:
    """Make the coordinator's key and certificate anew; sites need nothing new.

    Raises
    ------
    FedM2CTError
        If the authority's key cannot be used.
    """
    hosts = list(dict.fromkeys([host, "localhost", "127.0.0.1"]))
    certificates.make_server_certificate(
        hosts, folder.key, folder.certificate, folder.authority_key, folder.authority
    )


def services(folder: CoordinatorFolder, settings: CoordinatorSettings) -> list[Service]:
    """Return the coordinator's processes.

    Raises
    ------
    FedM2CTError
        If nginx is wanted and is not installed.
    """
    address = f"127.0.0.1:{settings.superlink_port}"
    flower = [sys.executable, "-m", "fedm2ct.federation.flower"]
    keys = ["--ssl-certfile", folder.certificate, "--ssl-keyfile", folder.key]
    secret = ["--superexec-auth-secret-file", folder.secret]
    superlink = [
        *("superlink", "--host", "127.0.0.1", "--port", settings.superlink_port),
        *(*keys, "--ssl-ca-certfile", folder.authority),
        *("--isolation", "process", *secret),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", folder.state / "superlink.db"),
    ]
    executor = [
        *("superexec", "--runtime-api-address", address),
        *("--root-certificates", folder.authority, *secret),
    ]
    environment = {"FLWR_HOME": str(folder.state / "flower")}
    scripts = str(Path(sys.executable).parent)  # where flower-superexec looks for flwr-serverapp
    executing = {
        **environment,
        FOLDER_VARIABLE: str(folder.root),
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    }
    kept = [
        Service("superlink", [*flower, *map(str, superlink)], environment),
        Service("executor", [*flower, *map(str, executor)], executing),
    ]
    if settings.proxy:
        log = folder.logs / "nginx-error.log"
        command = [_nginx(), "-p", folder.root, "-c", folder.proxy_config, "-e", log]
        kept.append(Service("proxy", [str(word) for word in command]))
    return kept


def _nginx() -> str:
    """Return nginx's path; Debian keeps it where ordinary users do not look."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FedM2CTError(
            "nginx is not installed: sudo apt-get install nginx-light (or nginx), or set proxy = "
            "false in coordinator.toml where another proxy passes on what nginx.conf does"
        )
    return found


def coordinator_up(
    folder: CoordinatorFolder, stop: threading.Event, tell: Callable[[str], None]
) -> None:
    """Run the coordinator's services until `stop` is set.

    Raises
    ------
    FedM2CTError
        If the folder is none of a coordinator, or nginx is missing.
    """
    settings = folder.settings()
    kept = services(folder, settings)
    left = certificates.days_left(folder.certificate)
    if left < 30:
        tell(f"the certificate expires in {left} days: fedm2ct coordinator renew {folder.root}")
    registrar = _Registrar(folder, settings, tell)
    os.umask(0o077)
    status = folder.state / "services.json"
    Supervisor(kept, folder.logs, status, tell).run(stop, registrar)


class _Registrar:
    """Brings Flower's list of sites in line with the registered keys, every few seconds."""

    def __init__(
        self,
        folder: CoordinatorFolder,
        settings: CoordinatorSettings,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._tell = folder, tell
        self._address = f"127.0.0.1:{settings.superlink_port}"
        self._next = 0.0
        self._known: set[str] = set()
        self._faults: list[str] = []
        self._control: Control | None = None

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        from fedm2ct.federation.control import Control

        self._control = self._control or Control(self._address, self._folder.authority)
        faults: list[str] = []
        try:
            nodes = bring_in_line(self._folder, self._control, faults.append)
        except FedM2CTError:  # the SuperLink is not up yet, or starts again
            self._next = time.monotonic() + _START_LOOK_S
            return
        self._next = time.monotonic() + (_LOOK_S if nodes else _START_LOOK_S)
        for fault in faults:
            if fault not in self._faults:
                self._tell(fault)
        self._faults = faults
        for name in nodes.keys() - self._known:
            self._tell(f"site {name} is registered")
        for name in self._known - nodes.keys():
            self._tell(f"site {name} is refused from now on")
        self._known = set(nodes)
