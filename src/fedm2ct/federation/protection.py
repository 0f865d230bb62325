"""What is done to every method's uploads alike: clipped, noised, compressed, robustly averaged.

At the site, in this order: the method's upload, less what the site was sent, is the update; it is
clipped and noised (`update_noise`), what rounding kept back in earlier rounds is added, and it is
compressed (`compression`); `protected_client` does so. At the server it is decoded, validated, and
averaged by the rule that was chosen (`robust`). Training may be noised slice by slice instead
(`learning.slice_privacy`).
"""

import secrets
from dataclasses import replace

from fedm2ct.config import ConfigError
from fedm2ct.config_protection import PrivacyConfig
from fedm2ct.federation.accounting import library
from fedm2ct.federation.method import ClientHalf, ServerHalf
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.cross_protocol_client import CrossProtocolClient
from fedm2ct.federation.methods.local import SilentServer
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.protected_client import ProtectedClient, Protection, has_noise
from fedm2ct.federation.robust import average_by
from fedm2ct.learning.seeds import SECRET_BYTES, derive_secret, derive_seed, secret_generator
from fedm2ct.learning.slice_privacy import SlicePrivacy, sampling_rate
from fedm2ct.learning.trainer import SiteTrainer


def build_halves(method: str, setup: Setup) -> Halves:
    """Build a method's two halves, protected as the configuration asks for; see `protect`."""
    return protect(METHODS[method](setup), setup)


def protect(halves: Halves, setup: Setup) -> Halves:
    """Put what ``[federation]`` and ``[privacy]`` ask for around a method's two halves.

    A method that sends nothing is left as it is, and so is everything under the defaults.

    Raises
    ------
    ConfigError
        If the method's server has no plain average that another rule could stand in for.
    FedM2CTError
        If a site here is to add noise, and dp-accounting is not installed.
    """
    federation, privacy = setup.config.federation, setup.config.privacy
    if isinstance(halves.server, SilentServer):
        return halves
    if federation.aggregation != "mean":
        _check_average(halves.server, federation.aggregation)
        halves.server.average = average_by(federation.aggregation, federation.trim)
    halves.server.compression = federation.compression
    if federation.compression == "none" and privacy == PrivacyConfig():
        return halves
    if privacy.slice_clip is not None:
        _check_losses(halves)
    if has_noise(privacy) and any(len(task.train) for task in setup.tasks):
        library()  # missed now, not when the first round has been trained
    clients: dict[str, ClientHalf] = {
        name: ProtectedClient(client, _protection(setup, name, halves.trainers[name]))
        for name, client in halves.clients.items()
    }
    return replace(halves, clients=clients)


def _check_average(server: ServerHalf, aggregation: str) -> None:
    if not server.takes_average:
        raise ConfigError(
            f"field 'federation.aggregation': {aggregation!r} stands in for the weighted average, "
            "but a method of this run averages by equations of its own (scaffold, fednova, feddyn "
            "do); set it to 'mean', or leave the method out"
        )


def _check_losses(halves: Halves) -> None:
    if any(isinstance(client, CrossProtocolClient) for client in halves.clients.values()):
        raise ConfigError(
            "field 'privacy.slice_clip': training slice by slice does not cover what a method of "
            "this run trains on under other sites' protocols; leave it out, or set "
            "'fedm2ct.cross_protocol' to 0 and leave fedavg_cross out"
        )


def _protection(setup: Setup, site: str, trainer: SiteTrainer) -> Protection:
    privacy = setup.config.privacy
    known = privacy.reproducible or not has_noise(privacy)
    label = (setup.seed, site, "privacy")
    secret = derive_secret(*label) if known else secrets.token_bytes(SECRET_BYTES)
    slices = None
    if privacy.slice_clip is not None:
        unset = secret_generator(secret, site)  # until the first round begins
        slices = SlicePrivacy(privacy.slice_clip, privacy.slice_noise, unset)
        trainer.privacy = slices
    rate = sampling_rate(len(trainer.train_data), setup.config.training.batch_size)
    compression = setup.config.federation.compression
    return Protection(compression, privacy, site, derive_seed(*label), secret, slices, rate)
