"""Configuration in, tasks out: read scans, split patients, simulate every site's acquisition."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fedm2ct.config import ConfigError, RunConfig, SiteConfig
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import Measurements, PairedData, simulate
from fedm2ct.data.sites import (
    META,
    TEST,
    Selection,
    Split,
    load_scan,
    select,
    split_reference,
)
from fedm2ct.errors import FedM2CTError
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTask
from fedm2ct.physics.protocols import (
    Protocol,
    get_protocol,
    protocol_from_dict,
    warn_if_truncated,
)
from fedm2ct.pipeline.phantom_scans import is_phantom, phantom_scan

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Cohort:
    """The scans of a run, who uses which slices of them, and each site's protocol.

    `unpaired` names the sites that have no normal-dose images.
    """

    scans: Mapping[str, Scan]
    split: Split
    protocols: Mapping[str, Protocol]
    unpaired: frozenset[str] = frozenset()

    def public(self) -> list[tuple[Scan, Sequence[int]]]:
        """Return the server's public scans and their slices."""
        return [(self.scans[s.scan], s.slices) for s in self.split[META]]

    def trained_on(self) -> str:
        """Return a short hash of what training reads: each role's voxels, whatever they are called.

        The test patients are not among it, nor are slices that no role uses.
        """
        digest = hashlib.sha256()
        for role in sorted(self.split.roles.keys() - {TEST}):
            for used in self.split[role]:
                scan = self.scans[used.scan]
                spacing = tuple(map(float, scan.spacing_zyx_mm))
                about = (role, spacing, len(used.slices), len(used.held_out))
                digest.update(repr(about).encode())
                digest.update(scan.hu[[*used.slices, *used.held_out]].tobytes())
        return digest.hexdigest()[:16]


def site_protocol(site: SiteConfig, image_size: int) -> Protocol:
    """Return a site's protocol at the run's image size; warn when it truncates its field of view.

    Raises
    ------
    ConfigError
        Naming the site, when its protocol is not known or not complete.
    """
    try:
        given = site.protocol
        protocol = get_protocol(given) if isinstance(given, str) else protocol_from_dict(given)
    except FedM2CTError as error:
        raise ConfigError(f"site {site.name!r}, field 'protocol': {error}") from None
    if protocol.grid.shape != (image_size, image_size):
        protocol = protocol.scaled(image_size)
    warn_if_truncated(protocol, protocol.grid.field_of_view_mm / 2)
    return protocol


def site_protocols(config: RunConfig) -> dict[str, Protocol]:
    """Return every site's protocol at the run's image size; see `site_protocol`."""
    return {site.name: site_protocol(site, config.image_size) for site in config.sites}


def unpaired_sites(config: RunConfig) -> frozenset[str]:
    """Return the names of the sites without normal-dose images."""
    return frozenset(site.name for site in config.sites if site.supervision == "none")


def load_any(name: str) -> Scan:
    """Load a sample, a file, or an analytic phantom (``phantom-1``, ``phantom-2``, ...)."""
    return phantom_scan(name) if is_phantom(name) else load_scan(name)


def read_cohort(config: RunConfig, progress: Progress = lambda _: None) -> Cohort:
    """Read all scans of a run and split them by patient.

    Raises
    ------
    FedM2CTError
        When a scan cannot be read, a protocol is wrong, a scan is there twice, or a patient or a
        copy of a scan would have two roles.
    """
    protocols = site_protocols(config)
    wanted: dict[str, tuple[list[str], int, float]] = {
        site.name: (site.scans, site.slices, site.validation_fraction) for site in config.sites
    }
    wanted[TEST] = (config.test.scans, config.test.slices, 0.0)
    if config.meta.source == "simulated":
        wanted[META] = (config.meta.scans, config.meta.slices, 0.0)
    scans: dict[str, Scan] = {}
    roles: dict[str, tuple[Selection, ...]] = {}
    for role, (references, slices, held_out) in wanted.items():
        selections = []
        for name, part in map(split_reference, references):
            if name not in scans:
                progress(f"reading {name}")
                scans[name] = load_any(name)
            selections.append(
                select(scans[name], slices, source=name, held_out_fraction=held_out, part=part)
            )
        roles[role] = tuple(selections)
    _refuse_copies(scans, roles)
    return Cohort(scans, Split(roles), protocols, unpaired_sites(config))


def _refuse_copies(scans: Mapping[str, Scan], roles: Mapping[str, tuple[Selection, ...]]) -> None:
    """Refuse the same voxels twice, whatever the files say of the patient.

    Separate parts of one scan are no copies, and one scan in two roles is for `Split` to judge.
    """
    owners: dict[str, list[tuple[str, Selection]]] = {}
    for role, selections in roles.items():
        for mine in selections:
            scan = scans[mine.scan]
            before = owners.setdefault(scan.provenance.get("hu_sha256", scan.name), [])
            for other, theirs in before:
                copied = mine.scan != theirs.scan
                if other != role and copied:
                    raise ConfigError(
                        f"scan {mine.scan} of {role!r} is a copy of scan {theirs.scan} of "
                        f"{other!r}; give each patient one role only"
                    )
                if other == role and (copied or not mine.is_apart_from(theirs)):
                    raise ConfigError(
                        f"scans of {role!r}: {mine.scan} is the same scan as {theirs.scan}; "
                        "name it once"
                    )
            before.append((role, mine))


def site_tasks(cohort: Cohort, seed: int) -> list[SiteTask]:
    """Simulate every site's acquisition of its own patients; noise depends on seed and site.

    Of a site without normal-dose images nothing but the measurements is returned.
    """
    tasks = []
    for site, protocol in cohort.protocols.items():
        train = [(cohort.scans[s.scan], s.slices) for s in cohort.split[site]]
        data: tuple[Measurements, Measurements] = (
            acquire(train, protocol, generator(seed, site, "training noise")),
            acquire_validation(cohort, site, seed),
        )
        if site in cohort.unpaired:
            train = []
            data = (Measurements(data[0].projections), Measurements(data[1].projections))
        tasks.append(SiteTask(site, protocol, *data, images=train))
    return tasks


def acquire_settings(cohort: Cohort, site: str, seed: int) -> PairedData:
    """Simulate a site's acquisition of the pairs on which a conventional method is set up.

    They are the site's validation slices, or, where it has no normal-dose images, the public ones.

    Raises
    ------
    ConfigError
        If there are neither.
    """
    if site not in cohort.unpaired:
        return acquire_validation(cohort, site, seed)
    if META not in cohort.split.roles:
        raise ConfigError(
            f"site {site!r} has no normal-dose images, and there are no public scans either, to "
            "set up SIRT and TV on; name some in 'meta.scans', or leave these methods out"
        )
    noise = generator(seed, site, "public validation noise")
    return acquire(cohort.public(), cohort.protocols[site], noise)


def acquire_validation(cohort: Cohort, site: str, seed: int) -> PairedData:
    """Simulate a site's acquisition of the slices that it holds out of its own patients."""
    held_out = [(cohort.scans[s.scan], s.held_out) for s in cohort.split[site] if s.held_out]
    protocol = cohort.protocols[site]
    return acquire(held_out, protocol, generator(seed, site, "validation noise"))


def acquire(
    slices: Sequence[tuple[Scan, Sequence[int]]], protocol: Protocol, noise: torch.Generator
) -> PairedData:
    """Simulate one protocol's acquisition of slices of several scans."""
    return PairedData.joined([simulate(s, indices, protocol, noise) for s, indices in slices])


def acquire_tests(
    scans: Sequence[tuple[Scan, Sequence[int]]], protocol: Protocol, site: str, seed: int
) -> tuple[PairedData, list[str]]:
    """Simulate a site's acquisition of test patients; return it and each slice's patient."""
    data = acquire(scans, protocol, generator(seed, site, "test noise"))
    return data, [scan.patient for scan, indices in scans for _ in indices]
