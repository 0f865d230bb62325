"""FedKD: adaptive mutual distillation (Wu et al. 2022, arXiv 2108.13323).

doi 10.1038/s41467-022-29763-x. Each site trains its own mentor x and its copy z of the shared
mentee. They distil into each other as far as both are right:

    L_mentor = d(x, y) + d(x, sg z) / (d(x, y) + d(z, y))
    L_mentee = d(z, y) + d(z, sg x) / (d(x, y) + d(z, y))

The site sends the mentee; the server averages, weighted by the sites' numbers of slices.

Shared: the mentee's image network. Kept: the mentor's, and, ours, the sinogram network and
back-projection that both stand on; the mentor is the product. Ours: d is the supervised distance
between images, for every term (cross-entropy and KL divergence there); the denominator is a weight
and takes no gradient; parameters are averaged once a round, where the paper sends gradients.

Left out: the adaptive loss on hidden states and attention maps, and the dynamic compression of what
is sent by singular values (so that the traffic here is FedAvg's).
"""

from torch import Tensor

from fedm2ct.federation.methods.fedavg import AveragingServer
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.federation.methods.two_networks import two_networks
from fedm2ct.learning.losses import Distance
from fedm2ct.learning.mutual import both_images
from fedm2ct.learning.trainer import Loss, SiteTrainer
from fedm2ct.model.ts_iradonmap import Reconstruction


def distillation_loss(distance: Distance) -> Loss:
    """Return L_mentor + L_mentee; no gradient crosses between the two models."""

    def loss(result: Reconstruction, truth: Tensor) -> Tensor:
        x, z = both_images(result)
        task = distance(x, truth) + distance(z, truth)
        distilled = distance(x, z.detach()) + distance(z, x.detach())
        return task + distilled / task.detach()

    return loss


def build(setup: Setup) -> Halves:
    """Build both halves."""
    loss = distillation_loss(setup.distance)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=True)

    spec = two_networks(setup, alike=False)
    return federate(setup, spec, client, AveragingServer)
