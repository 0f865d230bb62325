"""A site's half of a deployment: the unit of work that a message belongs to, built once and kept.

Scans are read once, the model stays in memory from round to round, and what must survive a crash is
on the site's disk: `RemoteSite` finds its way back to it.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedm2ct.deployment.certificates import key_text, own_public_key
from fedm2ct.deployment.cohorts import site_cohort
from fedm2ct.deployment.federation_file import NOT_DEPLOYED, config_at_site
from fedm2ct.deployment.folders import SiteFolder
from fedm2ct.deployment.unit_of_work import UnitOfWork, member, unit_from_json
from fedm2ct.device import compute_device
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.method import ClientHalf, State
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.protection import build_halves
from fedm2ct.federation.remote_site import RemoteSite
from fedm2ct.physics.protocols import protocol_from_dict
from fedm2ct.pipeline.fingerprints import run_fingerprint, unit_fingerprint
from fedm2ct.pipeline.manifest import write_manifest
from fedm2ct.pipeline.model_files import save_model
from fedm2ct.pipeline.prepare import Cohort, site_tasks

if TYPE_CHECKING:
    from flwr.app import Context

    from fedm2ct.config import RunConfig


class HostedSite(RemoteSite):
    """A `RemoteSite` that also does something of its own when a run ends.

    Parameters
    ----------
    name, client, folder, identity
        As of `Site`.
    at_the_end
        Called when the final shared parameters have been taken.
    """

    def __init__(
        self,
        name: str,
        client: ClientHalf,
        folder: Path,
        identity: RunIdentity,
        at_the_end: Callable[[], None],
    ) -> None:
        super().__init__(name, client, folder, identity)
        self._at_the_end = at_the_end

    def finish(self, round_index: int, shared: State) -> Mapping[str, float]:
        """Take the final shared parameters; see `Site.finish`."""
        metrics = super().finish(round_index, shared)
        self._at_the_end()
        return metrics


class SiteHost:
    """Finds the site's half of the unit of work that a message belongs to.

    Parameters
    ----------
    folder
        The site's folder.
    """

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self._settings = folder.settings()
        self._text = ""
        self._site: HostedSite | None = None
        self._cohorts: dict[str, Cohort] = {}

    def find(self, context: "Context") -> HostedSite:
        """Return the site in the state of mind for a message's unit of work.

        Raises
        ------
        FedM2CTError
            If this site is no member, its protocol is another than the coordinator thinks, there is
            less noise than it asks for, or its scans cannot be read.
        """
        text = str(context.run_config["unit"])
        if self._site is None or text != self._text:
            self._site = None  # the old one's memory is free while the new one is built
            self._site = self._build(unit_from_json(text))
            self._text = text
        return self._site

    def _build(self, unit: UnitOfWork) -> HostedSite:
        name = self._settings.name
        if unit.method not in METHODS or unit.method in NOT_DEPLOYED:
            raise FedM2CTError(f"method {unit.method!r} is not known here, or not over a network")
        config = config_at_site(unit.config, self._settings)
        self._check_noise(config)
        cohort = self._cohort(config)
        key = key_text(own_public_key(self._folder.private_key))
        if member(name, cohort.protocols[name], key) not in unit.members:
            raise FedM2CTError(
                f"the coordinator knows no site {name!r} with the protocol of this site.toml and "
                "this site's key; agree on name and protocol, and install the same version"
            )
        elsewhere = [protocol_from_dict(table) for table in unit.protocols]
        tasks, public = site_tasks(cohort, unit.seed), cohort.public()
        setup = Setup(config, tasks, unit.seed, public, compute_device(), elsewhere)
        halves = build_halves(unit.method, setup)
        root = self._folder.runs / unit.folder
        write_manifest(config, cohort, self._folder.runs / unit.run)
        identity = RunIdentity(_identity(unit, config), unit.seed)
        trainer = halves.trainers[name]
        own = root / "sites" / name

        def keep_best() -> None:
            save_model(trainer.model, trainer.chosen(), own / "model.safetensors")

        return HostedSite(name, halves.clients[name], own, identity, keep_best)

    def _check_noise(self, config: "RunConfig") -> None:
        least, given = self._settings.privacy, config.privacy
        for kind in ("update_noise", "slice_noise"):
            found, wanted = getattr(given, kind), getattr(least, f"minimum_{kind}")
            if found < wanted:
                raise FedM2CTError(
                    f"{self._folder.settings_file}: field 'privacy.minimum_{kind}' is {wanted}, "
                    f"and 'privacy.{kind}' of the coordinator's configuration {found}; agree on one"
                )

    def _cohort(self, config: "RunConfig") -> Cohort:
        key = run_fingerprint(config)
        if key not in self._cohorts:
            self._cohorts = {key: site_cohort(self._settings, config)}
        return self._cohorts[key]


def _identity(unit: UnitOfWork, config: "RunConfig") -> str:
    """Return a hash of the coordinator's configuration and of the site's own part."""
    own = unit_fingerprint(config, unit.method)
    return hashlib.sha256(f"{unit.fingerprint}/{own}".encode()).hexdigest()


def site_host(root: str | Path) -> SiteHost:
    """Return the host of the site in a folder."""
    return SiteHost(SiteFolder(Path(root)))
