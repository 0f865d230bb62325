"""The slices that one place of a deployment has: a site its own, the coordinator public ones."""

from collections.abc import Mapping

import torch

from fedm2ct.config import MetaConfig, RunConfig
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import Measurements, PairedData
from fedm2ct.data.sites import META, Selection, Split, select
from fedm2ct.deployment.settings import SiteSettings
from fedm2ct.learning.trainer import SiteTask
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.prepare import Cohort, load_any, site_protocol, site_protocols, unpaired_sites


def site_cohort(settings: SiteSettings, config: RunConfig) -> Cohort:
    """Read a site's scans, and its copies of the public ones.

    Parameters
    ----------
    settings
        The site's settings.
    config
        The site's configuration in a run.

    Raises
    ------
    FedM2CTError
        If a scan cannot be read, or a patient has two roles.
    """
    protocol = site_protocol(config.sites[0], config.image_size)
    scans = {name: load_any(name) for name in settings.scans}
    own = tuple(
        select(
            scans[name],
            settings.slices,
            source=name,
            held_out_fraction=settings.validation_fraction,
        )
        for name in settings.scans
    )
    roles = {settings.name: own}
    if settings.public is not None:
        public = {name: load_any(name) for name in settings.public.scans}
        roles[META] = _selections(public, config.meta)
        scans = {**public, **scans}
    return Cohort(scans, Split(roles), {settings.name: protocol}, unpaired_sites(config))


def coordinator_cohort(config: RunConfig) -> Cohort:
    """Read the coordinator's public scans; the sites' protocols come with it, their scans do not.

    Raises
    ------
    FedM2CTError
        If a scan cannot be read, or a protocol is wrong.
    """
    names = config.meta.scans if config.meta.source == "simulated" else []
    scans = {name: load_any(name) for name in names}
    split = Split({META: _selections(scans, config.meta)})
    return Cohort(scans, split, site_protocols(config), unpaired_sites(config))


def _selections(scans: Mapping[str, Scan], meta: MetaConfig) -> tuple[Selection, ...]:
    return tuple(select(scan, meta.slices, source=name) for name, scan in scans.items())


def tasks_without_slices(cohort: Cohort) -> list[SiteTask]:
    """Return the sites as the coordinator knows them: name, protocol, whether there is truth."""
    tasks = []
    for name, protocol in cohort.protocols.items():
        none: Measurements = no_slices(protocol)
        if name in cohort.unpaired:
            none = Measurements(none.projections)
        tasks.append(SiteTask(name, protocol, none, none))
    return tasks


def no_slices(protocol: Protocol) -> PairedData:
    """Return an empty acquisition of a protocol."""
    geometry, grid = protocol.geometry, protocol.grid
    projections = torch.zeros(0, 1, geometry.n_views, geometry.n_bins)
    return PairedData(projections, torch.zeros(0, 1, *grid.shape), projections)
