"""Units for systemd: the services start with the machine, and may touch their own folder only."""

import getpass
import sys
from pathlib import Path

_UNIT = """\
# Written by `fedm2ct {kind} init`. To install it:
#   sudo cp {root}/{file} /etc/systemd/system/ && sudo systemctl daemon-reload
#   sudo systemctl enable --now {file}
[Unit]
Description=FedM2CT {kind}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
Environment=NUMBA_CACHE_DIR={root}/state/numba
ExecStart={python} -m fedm2ct {kind} up {root}
Restart=on-failure
RestartSec=10
KillMode=mixed
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
CapabilityBoundingSet=
ReadWritePaths={root}
# Add here where else it writes, such as the folder of the coordinator's runs:
# ReadWritePaths=/data/runs

[Install]
WantedBy=multi-user.target
"""


def systemd_unit(kind: str, root: Path) -> tuple[str, str]:
    """Return a unit's file name and text.

    Parameters
    ----------
    kind
        ``coordinator`` or ``site``.
    root
        The folder.
    """
    file = f"fedm2ct-{kind}.service"
    text = _UNIT.format(
        kind=kind, file=file, root=root.resolve(), user=getpass.getuser(), python=sys.executable
    )
    return file, text
