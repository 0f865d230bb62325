"""FedPer: FedAvg with a private part (Arivazhagan et al. 2019, arXiv 1912.00818).

There the private layers are a classifier's last ones. Here they are those that are bound to the
site's geometry, the first: sinogram network and back-projection. The image network is averaged.
"""

from fedm2ct.federation.methods.fedavg import build_averaging, image_network
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.model.ts_iradonmap import ModelSpec


def private_projection(setup: Setup) -> ModelSpec:
    """Return the model of FedPer and of every rival that averages an image network."""
    return image_network(setup, learn_projection=setup.config.model.learn_projection)


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_averaging(setup, private_projection(setup))
