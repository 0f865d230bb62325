"""A site: its folder, joining a federation, and the services that run from it."""

import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fedm2ct.deployment import certificates
from fedm2ct.deployment.coordinator import check_folder_name
from fedm2ct.deployment.folders import (
    SiteFolder,
    check_name,
    private_folder,
    refuse_existing,
)
from fedm2ct.deployment.processes import Service, Supervisor
from fedm2ct.deployment.settings import Invitation, SiteSettings, read_settings
from fedm2ct.deployment.systemd import systemd_unit
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_SETTINGS = """\
# Written by `fedm2ct site init`. Scans, protocol and all that is trained on them stay here.
name = "{name}"
protocol = "{protocol}"      # `fedm2ct protocols` lists them; agree on it with the coordinator
scans = ["/data/patient-1", "/data/patient-2"]   # DICOM folders, NIfTI, NRRD or npz
slices = 40                  # of each scan
validation_fraction = 0.2
supernode_port = {port}      # on 127.0.0.1 only
threads = 0                  # 0: as many as the libraries like

# Copies of the coordinator's public scans, in its order, if it hands some out:
# [public]
# scans = ["/data/public-1.nii.gz"]
"""


def init_site(root: Path, name: str, protocol: str, port: int) -> SiteFolder:
    """Make a site's folder: settings to fill in, a key pair, a systemd unit.

    Raises
    ------
    FedM2CTError
        If the folder is in use already, or the name cannot be one.
    """
    folder = SiteFolder(check_folder_name(root))
    check_name(name)
    refuse_existing(folder.root, folder.settings_file)
    for path in (folder.root, folder.private_key.parent, folder.runs, folder.state, folder.logs):
        private_folder(path)
    certificates.make_site_key(folder.private_key, folder.public_key(name))
    certificates.make_secret(folder.secret)
    file, text = systemd_unit("site", folder.root)
    write_atomically(folder.root / file, text.encode())
    settings = _SETTINGS.format(name=name, protocol=protocol, port=port)
    write_atomically(folder.settings_file, settings.encode())
    return folder


def join(folder: SiteFolder, invitation: Path) -> str:
    """Accept a coordinator's invitation; return the authority's fingerprint, to be compared.

    Raises
    ------
    FedM2CTError
        If the folder is none of a site, or the invitation is damaged.
    """
    folder.settings()
    given = read_settings(invitation, Invitation, "the coordinator's init and ask for the file")
    fingerprint = certificates.certificate_fingerprint(given.authority.encode())
    write_atomically(folder.authority, given.authority.strip().encode() + b"\n")
    write_atomically(folder.invitation, invitation.read_bytes())
    return fingerprint


def check_connection(folder: SiteFolder, timeout_s: float = 10.0) -> None:
    """See whether the coordinator answers, and is the one of the invitation.

    Raises
    ------
    FedM2CTError
        If it does not answer, or its certificate is not the invitation's authority's.
    """
    address = folder.joined().coordinator
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context(cafile=str(folder.authority))
    try:
        with (
            socket.create_connection((host, int(port)), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise FedM2CTError(
            f"{address}: its certificate is not vouched for by the invitation's authority "
            f"({error.verify_message}); do not connect, ask the coordinator"
        ) from None
    except OSError as error:
        raise FedM2CTError(
            f"{address}: does not answer ({error}); is the coordinator up, and may this machine "
            "connect to that port?"
        ) from None


def services(folder: SiteFolder, settings: SiteSettings) -> list[Service]:
    """Return the site's processes.

    Raises
    ------
    FedM2CTError
        If the site has not joined.
    """
    supernode = [
        *("supernode", "--superlink", folder.joined().coordinator),
        *("--root-certificates", folder.authority),
        *("--auth-supernode-private-key", folder.private_key),
        *("--host", "127.0.0.1", "--port", settings.supernode_port),
        *("--isolation", "process", "--superexec-auth-secret-file", folder.secret),
    ]
    flower = [sys.executable, "-m", "fedm2ct.federation.flower"]
    worker = [sys.executable, "-m", "fedm2ct.deployment.worker", str(folder.root)]
    home = {"FLWR_HOME": str(folder.state / "flower")}
    threads = dict.fromkeys(_THREAD_VARIABLES, str(settings.threads)) if settings.threads else {}
    return [
        Service("supernode", [*flower, *map(str, supernode)], home),
        Service("worker", worker, {**home, **threads}),
    ]


def site_up(folder: SiteFolder, stop: threading.Event, tell: Callable[[str], None]) -> None:
    """Run the site's services until `stop` is set.

    Raises
    ------
    FedM2CTError
        If the folder is none of a site, or it has not joined.
    """
    kept = services(folder, folder.settings())
    os.umask(0o077)
    Supervisor(kept, folder.logs, folder.state / "services.json", tell).run(stop)
