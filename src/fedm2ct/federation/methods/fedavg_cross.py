"""FedAvg of a prompted network that every site trains under all protocols: a control, ours.

What is left of FedM2CT with `fedm2ct.cross_protocol` = 1 when private networks, mutual learning and
metamodel are taken away: it tells how much of a gain the further acquisitions alone are.

Shared: the prompted image network, on plain FBP. Kept: nothing.
"""

from dataclasses import replace

from fedm2ct.federation.methods.cross_protocol_client import crossing_client
from fedm2ct.federation.methods.fedavg import AveragingServer, image_network
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer

WEIGHT = 1.0


def build(setup: Setup) -> Halves:
    """Build both halves."""
    spec = replace(image_network(setup, learn_projection=False), prompted=True, shared_input="fbp")
    loss = supervised_loss(setup.distance)

    def client(trainer: SiteTrainer) -> SiteClient:
        return crossing_client(setup, trainer, lambda _: loss, WEIGHT, validate_training=False)

    return federate(setup, spec, client, AveragingServer)
