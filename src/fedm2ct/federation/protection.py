"""What is done to every method's uploads alike: clipped, noised, compressed, robustly averaged.

At the site, in this order: the method's upload, less what the site was sent, is the update; it is
clipped and noised (`update_noise`), what rounding kept back in earlier rounds is added, and it is
compressed (`compression`). At the server it is decoded, validated, and averaged by the rule that
was chosen (`robust`). Training may be noised slice by slice instead (`learning.slice_privacy`).

With noise, a site's scalars (loss, validation PSNR) stay at the site: they come from its images,
and the noise does not cover them. In their place the log gets epsilon. Its number of slices is
still sent.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fedm2ct.config import ConfigError
from fedm2ct.config_protection import PrivacyConfig
from fedm2ct.federation.accounting import library, slice_epsilon, update_epsilon
from fedm2ct.federation.compression import apply_change, change, encode, remainder
from fedm2ct.federation.method import ClientHalf, Compression, ServerHalf, State, Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.counted import Before
from fedm2ct.federation.methods.cross_protocol_client import CrossProtocolClient
from fedm2ct.federation.methods.local import SilentServer
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.robust import average_by
from fedm2ct.federation.update_noise import clip_and_noise
from fedm2ct.learning.seeds import derive_seed, generator
from fedm2ct.learning.slice_privacy import SlicePrivacy, sampling_rate
from fedm2ct.learning.trainer import SiteTrainer, part_of

_OWN = "protection."
_FEEDBACK, _BEFORE = f"{_OWN}feedback.", f"{_OWN}before."


def has_noise(privacy: PrivacyConfig) -> bool:
    """Return whether a configuration adds any noise."""
    return privacy.update_noise > 0 or privacy.slice_noise > 0


@dataclass
class Protection:
    """What one site does to its uploads.

    Attributes
    ----------
    compression
        The form in which they travel.
    privacy
        Clipping and noise.
    secret
        Seed of all noise, and of which slices are drawn; the server must not know it.
    slices
        What the site's trainer does slice by slice, None for nothing.
    sampling_rate
        Probability with which a slice takes part in a step, for the accountant.
    """

    compression: Compression
    privacy: PrivacyConfig
    secret: int
    slices: SlicePrivacy | None = None
    sampling_rate: float = 1.0

    @property
    def noised(self) -> bool:
        """Whether any noise is added, so that there is something to account for."""
        return has_noise(self.privacy)

    def epsilons(self, rounds: int) -> dict[str, float]:
        """Return what has been spent after a number of rounds, for the log."""
        spent, delta = {}, self.privacy.delta
        if self.privacy.update_noise > 0:
            spent["epsilon_update"] = update_epsilon(self.privacy.update_noise, rounds, delta)
        if self.slices is not None and self.slices.noise > 0:
            noise, steps = self.slices.noise, self.slices.steps
            spent["epsilon_slice"] = slice_epsilon(noise, self.sampling_rate, steps, delta)
        return spent


class ProtectedClient(ClientHalf):
    """A method's client half whose uploads are protected on their way out.

    Attributes
    ----------
    feedback
        What rounding has kept back so far, added to the next update.
    before
        The feedback before the last round: taken back where that round's upload did not count.

    Parameters
    ----------
    inner
        The method's client half.
    protection
        What to do.
    """

    def __init__(self, inner: ClientHalf, protection: Protection) -> None:
        self.inner, self.protection = inner, protection
        self.feedback: State = {}
        self.before = Before()

    def heard(self, counted: int) -> None:
        """See `ClientHalf.heard`."""
        self.inner.heard(counted)
        self.feedback = self.before.unless_counted(counted, self.feedback)

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round; return the protected upload, or nothing of a site that abstains."""
        upload = self.inner.fit(round_index, shared)
        if upload.abstains:
            return replace(upload, metrics={}) if self.protection.noised else upload
        base = self.inner.changes_of(shared)
        update = self._noised(change(upload.shared, base), upload.site, round_index)
        sent = self._compressed(update, base, round_index)
        metrics = dict(upload.metrics)
        if self.protection.noised:
            metrics = self.protection.epsilons(round_index)
        return replace(upload, shared=sent, metrics=metrics)

    def _noised(self, update: State, site: str, round_index: int) -> State:
        privacy = self.protection.privacy
        if privacy.update_clip is None:
            return update
        draw = generator(self.protection.secret, site, "update noise", round_index)
        return clip_and_noise(update, privacy.update_clip, privacy.update_noise, draw)

    def _compressed(self, update: State, base: State, round_index: int) -> State:
        kind = self.protection.compression
        if kind == "none":
            return apply_change(update, base)
        update = {n: t + self.feedback[n] if n in self.feedback else t for n, t in update.items()}
        sent = encode(update, kind)
        self.before = Before(round_index, self.feedback)
        self.feedback = remainder(update, sent, kind)
        return sent

    def changes_of(self, received: State) -> State:
        """See `ClientHalf.changes_of`."""
        return self.inner.changes_of(received)

    def finish(self, shared: State) -> Mapping[str, float]:
        """Take the final parameters; with noise, the scalars stay at the site."""
        metrics = self.inner.finish(shared)
        return {} if self.protection.noised else metrics

    def private_state(self) -> State:
        """Return the method's private state, and what has been kept back, spent, and is secret."""
        own = {f"{_FEEDBACK}{name}": tensor for name, tensor in self.feedback.items()}
        own |= {f"{_BEFORE}{name}": tensor for name, tensor in self.before.as_state().items()}
        if self.protection.noised:
            own[f"{_OWN}secret"] = torch.tensor(self.protection.secret)
        if self.protection.slices is not None:
            own[f"{_OWN}steps"] = torch.tensor(self.protection.slices.steps)
        return {**self.inner.private_state(), **own}

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`."""
        self.inner.load_private_state({n: t for n, t in state.items() if not n.startswith(_OWN)})
        self.feedback = part_of(state, _FEEDBACK)
        self.before = Before.from_state(part_of(state, _BEFORE))
        if self.protection.noised:
            self.protection.secret = int(state[f"{_OWN}secret"])
        if self.protection.slices is not None:
            self.protection.slices.secret = self.protection.secret
            self.protection.slices.steps = int(state[f"{_OWN}steps"])

    @property
    def fingerprint(self) -> str:
        """See `ClientHalf.fingerprint`."""
        return self.inner.fingerprint


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
    secret = derive_seed(setup.seed, site, "privacy") if known else secrets.randbits(63)
    slices = None
    if privacy.slice_clip is not None:
        slices = SlicePrivacy(privacy.slice_clip, privacy.slice_noise, secret)
        trainer.privacy = slices
    rate = sampling_rate(len(trainer.train_data), setup.config.training.batch_size)
    return Protection(setup.config.federation.compression, privacy, secret, slices, rate)
