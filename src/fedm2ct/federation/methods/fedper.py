"""FedPer: FedAvg with a private part (Arivazhagan et al. 2019, arXiv 1912.00818).

There the private layers are a classifier's last ones. Here they are those that are bound to the
site's geometry, the first: sinogram network and back-projection. The image network is averaged.
"""

from fedm2ct.federation.methods.fedavg import build_averaging
from fedm2ct.federation.methods.setup import Halves, Setup


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_averaging(setup, learn_projection=setup.config.model.learn_projection)
