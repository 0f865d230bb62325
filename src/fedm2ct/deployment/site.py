"""A site: its folder, joining a federation, and the services that run from it."""

import http.client
import os
import ssl
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
# What flwr 1.41 bears of the time that a site's call is signed with: 5 s ahead, 305 s behind.
_LONGEST_AHEAD_S = 5.0
_LONGEST_BEHIND_S = 300.0
_OUT_OF_DATE = (9, 10)  # OpenSSL's numbers for "not yet valid" and "has expired"
_SET_CLOCKS = "let both machines set their clocks by NTP (timedatectl set-ntp true)"
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

# The least noise that this site takes part with, whatever the coordinator asks for; 0 by default:
# [privacy]
# minimum_update_noise = 0.01
# minimum_slice_noise = 1.0
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
    """See whether the coordinator answers, is the one of the invitation, and has the same time.

    Raises
    ------
    FedM2CTError
        If it does not answer, its certificate is not the invitation's authority's, or it would
        refuse this site's calls for the time that they are signed with.
    """
    address = folder.joined().coordinator
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(folder.authority))
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=timeout_s, context=context
    )
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except ssl.SSLCertVerificationError as error:
        raise FedM2CTError(f"{address}: {_why_not_vouched_for(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise FedM2CTError(
            f"{address}: does not answer ({error}); is the coordinator up, and may this machine "
            "connect to that port?"
        ) from None
    finally:
        connection.close()
    _check_clock(address, date)


def _why_not_vouched_for(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OUT_OF_DATE:
        return (
            f"its certificate is not valid at this machine's time, {_now():%Y-%m-%d %H:%M} UTC "
            f"({error.verify_message}); {_SET_CLOCKS}, or ask the coordinator to renew it"
        )
    return (
        "its certificate is not vouched for by the invitation's authority "
        f"({error.verify_message}); do not connect, ask the coordinator"
    )


def _check_clock(address: str, date: str | None) -> None:
    """Compare this machine's time with that of an answer, which is rounded down to a second."""
    try:
        ahead_s = (_now() - parsedate_to_datetime(date or "")).total_seconds()
    except (TypeError, ValueError):
        return  # a proxy that tells no time
    if -_LONGEST_BEHIND_S < ahead_s < _LONGEST_AHEAD_S + 1:
        return
    where = "ahead of" if ahead_s > 0 else "behind"
    raise FedM2CTError(
        f"{address}: this machine's clock is {abs(ahead_s):.0f} s {where} the coordinator's, which "
        f"refuses calls from more than {_LONGEST_AHEAD_S:.0f} s ahead or {_LONGEST_BEHIND_S:.0f} s "
        f"behind; {_SET_CLOCKS} and join again"
    )


def _now() -> datetime:
    return datetime.now(UTC)


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
