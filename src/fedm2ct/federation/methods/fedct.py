"""FedCT: projection domain kept, conditioned image domain shared (Chen et al. 2024).

doi 10.12122/j.issn.1673-4254.2024.02.16, "federated feature learning". We know its abstract only,
and this is a reading of it, not its equations:

- every site reconstructs with a network that inverts the Radon transform (iRadonMAP's kind);
- "projection-domain specific learning": what belongs to the geometry stays at the site;
- "federated feature learning": parameters of the site's condition mark its data and are fed to the
  network, which encodes them, so that one image domain serves all sites.

So a site trains F_k, B_k and S(.; c_k) together and sends S with its encoder of the condition; the
server averages, weighted by the sites' numbers of slices. The global network is the product.

Shared: the prompted image network. Kept: sinogram network and back-projection. Ours: which numbers
c_k are (FedM2CT's), how they are encoded (FiLM), and the weights of the average; the abstract gives
none of these. That makes it FedM2CT without private image network, mutual learning and metamodel.
"""

from dataclasses import replace

from fedm2ct.federation.methods.fedavg import build_averaging
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup


def build(setup: Setup) -> Halves:
    """Build both halves."""
    return build_averaging(setup, replace(private_projection(setup), prompted=True))
