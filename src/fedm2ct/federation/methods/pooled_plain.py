"""Pooled without a prompt: one image network, trained on all sites' slices, told no protocol.

What `pooled` adds to it is the prompt; what it adds to `fedper`, whose model it has, is that the
slices are in one place.
"""

from fedm2ct.federation.methods.pooled import build_pooled
from fedm2ct.federation.methods.setup import Halves, Setup


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_pooled(setup, prompted=False)
