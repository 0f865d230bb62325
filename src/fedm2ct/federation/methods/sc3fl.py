"""3SC-FL: the server trains the average on with pairs of its own (SPIE 2023).

Semi-supervised and semi-centralised federated learning, doi 10.1117/12.2654184; we know its
abstract. In a round the sites train and send, the server averages and then trains the global model
further on a standard set of pairs, and sends the result down:

    w^{t+1} = train( sum_k n_k / n w_k ;  the server's pairs )

That is FedM2CT's metamodel with alpha = 1: nothing is fused. The server's pairs and number of steps
are FedM2CT's (`meta`, `fedm2ct.meta_steps`), so that the two differ in what they do with them.

Shared: the image network. Kept: sinogram network and back-projection (ours); at the server a twin
of these for each protocol. Left out: the sites' unsupervised loss, which the abstract does not
give; sites have pairs here and train on them.
"""

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedm2ct import MetaServer, build_metamodel
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.trainer import SiteTrainer


class TrainingServer(MetaServer):
    """Averages and trains on; at a site of a deployment, where nobody asks it, it has no pairs."""

    def initial_shared(self) -> State:
        """See `ServerHalf.initial_shared`.

        Raises
        ------
        FedM2CTError
            When the server has no pairs or no steps.
        """
        if self.metamodel is None:
            raise FedM2CTError(
                "sc3fl trains at the server, which has no pairs; set fields 'meta.source' and "
                "'fedm2ct.meta_steps', or leave the method out"
            )
        return super().initial_shared()


def build(setup: Setup) -> Halves:
    """Build both halves."""
    spec, loss = private_projection(setup), supervised_loss(setup.distance)
    metamodel = build_metamodel(setup, spec)

    def client(trainer: SiteTrainer) -> SiteClient:
        return SiteClient(trainer, lambda _: loss, validate_download=True, validate_training=False)

    return federate(setup, spec, client, lambda start: TrainingServer(start, metamodel, alpha=1.0))
