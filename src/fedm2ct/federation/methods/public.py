"""Public normal-dose slices at a site: it simulates its own acquisition, the truth is no secret."""

from fedm2ct.data.simulate import PairedData, simulate
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.learning.meta_set import PublicSlices, split_public
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTask


def acquired(setup: Setup, task: SiteTask, public: PublicSlices, purpose: str) -> PairedData:
    """Return a site's acquisition of public slices; the noise depends on seed, site and purpose."""
    noise = generator(setup.seed, task.name, purpose)
    return PairedData.joined([simulate(scan, s, task.protocol, noise) for scan, s in public])


def public_training(setup: Setup, task: SiteTask) -> PairedData:
    """Return a site's acquisition of the public slices that the server does not hold out."""
    train, _ = split_public(setup.public, setup.config.meta.held_out)
    return acquired(setup, task, train, "public noise")


def held_out(setup: Setup, task: SiteTask) -> PairedData:
    """Return a site's acquisition of the public slices that the server holds out."""
    _, held = split_public(setup.public, setup.config.meta.held_out)
    return acquired(setup, task, held, "public validation noise")
