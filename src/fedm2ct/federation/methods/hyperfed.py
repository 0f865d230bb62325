"""HyperFed: a shared imaging network under hypernetworks of the sites' own (Yang et al. 2022).

arXiv 2206.03709, and its published code. Site k's hypernetwork H_k turns the protocol v_k (seven
numbers: views, bins, pixel, pitch, both distances, photons) into a modulation of every layer of the
imaging network,

    (gamma, beta) = H_k(v_k),      h <- gamma h + beta

Both are trained together; the imaging network is sent, and the server takes the plain mean.

Shared: the image network. Kept: H_k, and, ours, the sinogram network and back-projection (the paper
starts from FBP). Ours: H_k is FedM2CT's prompt in form, one hidden layer and modulation by
1 + gamma, zero at the start, and it modulates each layer by itself; the paper's has two hidden
layers with dropout and one gamma for the encoder, another for the decoder. So what differs from
FedM2CT's prompting is where the hypernetwork lives and what it is told of the protocol.
"""

from dataclasses import replace

from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


def build(setup: Setup) -> Halves:
    """Build both halves."""
    spec = replace(private_projection(setup), prompted=True, condition="hyperfed", kept="prompt")
    loss = supervised_loss(setup.distance)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=True)

    return federate(setup, spec, client, MeanServer)
