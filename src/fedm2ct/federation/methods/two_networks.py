"""The model of rivals that train two image networks at a site: their own and the shared one."""

from fedm2ct.federation.methods.setup import Setup
from fedm2ct.model.ts_iradonmap import ModelSpec


def two_networks(setup: Setup, *, alike: bool) -> ModelSpec:
    """Return a model of a private and a shared image network that do not see each other.

    Both correct what the private sinogram network and back-projection make of a scan, or see it
    beside an iterative start (the private one not, with ``model.private_sees_fbp = false``); those
    learn from whichever sees their image. The site's reconstruction is the private network's
    image: the papers' product is the personal model. (FedM2CT weighs both; the shared network's
    own image is reported as well.)

    Parameters
    ----------
    setup
        What the method is built from.
    alike
        Whether the private network is of the shared one's kind and sees the same; otherwise it is
        what the configuration says of private networks.
    """
    model = setup.config.model
    return ModelSpec(
        private=model.shared if alike else model.private,
        private_sees_fbp=alike or model.private_sees_fbp,
        shared=model.shared,
        width=model.width,
        start=model.start,
        prompted=False,
        coupling="side-by-side",
        learn_projection=model.learn_projection,
        output="private",
    )
