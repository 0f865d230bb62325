"""Where a coordinator and a site keep what."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedm2ct.deployment.settings import (
    CoordinatorSettings,
    Invitation,
    SiteSettings,
    read_settings,
)
from fedm2ct.errors import FedM2CTError

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
FOLDER_VARIABLE = "FEDM2CT_COORDINATOR"
"""Names the coordinator's folder to the process that executes its runs."""


@dataclass(frozen=True)
class CoordinatorFolder:
    """Paths in the coordinator's folder."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The settings."""
        return self.root / "coordinator.toml"

    @property
    def keys(self) -> Path:
        """Keys, certificates and the secret of the process that executes runs."""
        return self.root / "keys"

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.keys / "authority.pem"

    @property
    def authority_key(self) -> Path:
        """The authority's key."""
        return self.keys / "authority.key"

    @property
    def certificate(self) -> Path:
        """The coordinator's certificate."""
        return self.keys / "server.pem"

    @property
    def key(self) -> Path:
        """The coordinator's key."""
        return self.keys / "server.key"

    @property
    def secret(self) -> Path:
        """Shared by Flower's server and the process that executes its runs."""
        return self.keys / "executor.secret"

    @property
    def invitation(self) -> Path:
        """What sites are given."""
        return self.root / "invitation.toml"

    @property
    def proxy_config(self) -> Path:
        """Nginx's configuration."""
        return self.root / "nginx.conf"

    @property
    def sites(self) -> Path:
        """Public keys of registered sites, ``NAME.pub``, and node numbers, ``nodes.json``."""
        return self.root / "sites"

    @property
    def nodes(self) -> Path:
        """The number under which Flower knows each site's key."""
        return self.sites / "nodes.json"

    @property
    def state(self) -> Path:
        """What the running services keep."""
        return self.root / "state"

    @property
    def jobs(self) -> Path:
        """Units of work handed to the executing process."""
        return self.state / "jobs"

    @property
    def logs(self) -> Path:
        """Logs of the services."""
        return self.root / "logs"

    def job(self, name: str) -> Path:
        """Return the file of a job.

        Raises
        ------
        FedM2CTError
            If there can be no job of this name.
        """
        if not _JOB_NAME.fullmatch(name):
            raise FedM2CTError(f"{name!r} is no job of this coordinator")
        return self.jobs / f"{name}.json"

    def job_events(self, name: str) -> Path:
        """Return the file in which a job says what happens."""
        return self.job(name).with_suffix(".jsonl")

    def settings(self) -> CoordinatorSettings:
        """Read the settings.

        Raises
        ------
        FedM2CTError
            If the folder is none of a coordinator, or a field is wrong.
        """
        return read_settings(self.settings_file, CoordinatorSettings, "fedm2ct coordinator init")


@dataclass(frozen=True)
class SiteFolder:
    """Paths in a site's folder."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The settings."""
        return self.root / "site.toml"

    @property
    def private_key(self) -> Path:
        """The site's private key: it never leaves this folder."""
        return self.root / "keys" / "site.key"

    @property
    def secret(self) -> Path:
        """Shared by Flower's node and the site's worker."""
        return self.root / "keys" / "worker.secret"

    @property
    def authority(self) -> Path:
        """The federation's authority, from the invitation."""
        return self.root / "keys" / "authority.pem"

    @property
    def invitation(self) -> Path:
        """The invitation that was accepted."""
        return self.root / "invitation.toml"

    @property
    def runs(self) -> Path:
        """Private parts, models and logs of the runs this site has taken part in."""
        return self.root / "runs"

    @property
    def state(self) -> Path:
        """What the running services keep."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        """Logs of the services."""
        return self.root / "logs"

    def public_key(self, name: str) -> Path:
        """Return the public key's file, to be handed over."""
        return self.root / f"{name}.pub"

    def settings(self) -> SiteSettings:
        """Read the settings.

        Raises
        ------
        FedM2CTError
            If the folder is none of a site, or a field is wrong.
        """
        return read_settings(self.settings_file, SiteSettings, "fedm2ct site init")

    def joined(self) -> Invitation:
        """Read the accepted invitation.

        Raises
        ------
        FedM2CTError
            If the site has not joined.
        """
        return read_settings(self.invitation, Invitation, "fedm2ct site join")


def check_name(name: str) -> str:
    """Return a site's name if it can be one.

    Raises
    ------
    FedM2CTError
        If it cannot name a folder.
    """
    if name == "server" or not _SITE_NAME.fullmatch(name):
        raise FedM2CTError(
            f"site name {name!r} cannot name a folder: use letters, digits, '.', '_' and '-', at "
            "most 40 of them, and not the word server"
        )
    return name


def refuse_existing(root: Path, settings: Path) -> None:
    """Refuse to write over a folder that is in use.

    Raises
    ------
    FedM2CTError
        If its settings are there.
    """
    if settings.exists():
        raise FedM2CTError(f"{root}: holds {settings.name} already; choose another folder")


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter (mode 0700)."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o700)
    return path
