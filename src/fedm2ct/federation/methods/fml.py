"""FML: federated mutual learning (Shen et al. 2020, arXiv 2006.16765).

Each site trains a local model x and its copy z of the shared "meme" model, which teach each other:

    L_local = alpha d(x, y) + (1 - alpha) d(x, sg z)
    L_meme  = beta  d(z, y) + (1 - beta)  d(z, sg x)

and sends the meme; the server averages, weighted by the sites' numbers of slices. The local model
is the product.

Shared: the meme's image network. Kept: the local image network, of any architecture, and, ours, the
sinogram network and back-projection that both stand on. Ours: d is the supervised distance between
images, for both terms; in the paper, of classifiers, it is the cross-entropy in the first and the
KL divergence in the second.
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


def meme_loss(distance: Distance, alpha: float, beta: float) -> Loss:
    """Return L_local + L_meme; no gradient crosses between the two models."""

    def loss(result: Reconstruction, truth: Tensor) -> Tensor:
        x, z = both_images(result)
        local = alpha * distance(x, truth) + (1 - alpha) * distance(x, z.detach())
        meme = beta * distance(z, truth) + (1 - beta) * distance(z, x.detach())
        return local + meme

    return loss


def build(setup: Setup) -> Halves:
    """Build both halves."""
    options = setup.config.method.fml
    loss = meme_loss(setup.distance, options.alpha, options.beta)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=True)

    spec = two_networks(setup, alike=False)
    return federate(setup, spec, client, AveragingServer)
