"""FedFDD: high frequencies are everybody's, low ones the site's own (Chen et al., MIDL 2024).

openreview.net/forum?id=Zg0mfl10o2, and its published code. The image is split by its discrete
cosine transform; each band has a network, which sees the whole image as well:

    x_low = IDCT(M . DCT(x)),   x_high = x - x_low
    y     = f_low(x_low, x) + f_high(x_high, x)

Both are trained together; f_high is sent and averaged, weighted by the sites' numbers of slices.

Shared: the high band's image network. Kept: the low band's, and, ours, the sinogram network and
back-projection (the paper starts from FBP). Ours too: the mask M is fixed, for the reason that
`fedm2ct.model.frequency` gives, and the networks are the backbone's. There are two, so this rival
has about twice the parameters of those with one.
"""

from dataclasses import replace

from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss = supervised_loss(setup.distance)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=True)

    spec = replace(private_projection(setup), kept="low")
    return federate(setup, spec, client, AveragingServer)
