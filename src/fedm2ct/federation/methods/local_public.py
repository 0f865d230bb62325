"""Local only, with the server's public scans: each site also trains on them, under its protocol.

The rival that tells what of a simulated meta-set's gain is the federation's, and what any site
could have alone by simulating its own acquisition on the same public scans.
"""

from dataclasses import replace

from fedm2ct.data.simulate import PairedData, simulate
from fedm2ct.federation.methods import local
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTask


def with_public(setup: Setup, task: SiteTask) -> SiteTask:
    """Return the task with the public scans' slices, acquired under its protocol, added."""
    noise = generator(setup.seed, task.name, "public noise")
    public = [simulate(scan, slices, task.protocol, noise) for scan, slices in setup.public]
    return replace(task, train=PairedData.joined([task.train, *public]))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return local.build(replace(setup, tasks=[with_public(setup, task) for task in setup.tasks]))
