"""The two apps that the bundle names. Importing this is quick: each loads the rest when it is run.

A site that is started with ``fedm2ct site up`` does not use `client`, but a worker of its own
(`fedm2ct.deployment.worker`). `client` does the same, one process a message, where Flower's own
``flower-superexec`` is used instead.
"""

import os
from typing import TYPE_CHECKING

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.packing import packing
from fedm2ct.federation.server_app import make_server_app

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from fedm2ct.federation.site import Site

SITE_VARIABLE = "FEDM2CT_SITE"


def _run(grid: "Grid", context: "Context") -> None:
    from fedm2ct.deployment.job import run_job

    run_job(grid, context)


def _find(context: "Context") -> "Site":
    from fedm2ct.deployment.site_host import site_host

    root = os.environ.get(SITE_VARIABLE)
    if root is None:
        raise FedM2CTError(f"{SITE_VARIABLE} is not set: it names the site's folder")
    return site_host(root).find(context)


server = make_server_app(_run)
client = make_client_app(_find, [packing])
