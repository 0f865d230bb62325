"""Local only, with the server's public scans: each site also trains on them, under its protocol.

The rival that tells what of a simulated meta-set's gain is the federation's, and what any site
could have alone by simulating its own acquisition on the same public scans. A site without
normal-dose images trains on these alone, and validates on those that the server holds out.
"""

from dataclasses import replace

from fedm2ct.data.simulate import PairedData
from fedm2ct.federation.methods import local
from fedm2ct.federation.methods.public import acquired, held_out, public_training
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.learning.slices import paired
from fedm2ct.learning.trainer import SiteTask


def with_public(setup: Setup, task: SiteTask) -> SiteTask:
    """Return the task with the public scans' slices, acquired under its protocol, added."""
    if task.paired:
        parts = [paired(task.train)]
        if setup.public:
            parts.append(acquired(setup, task, setup.public, "public noise"))
        return replace(task, train=PairedData.joined(parts))
    if not setup.public:
        return task
    return replace(task, train=public_training(setup, task), validation=held_out(setup, task))


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return local.build(replace(setup, tasks=[with_public(setup, task) for task in setup.tasks]))
