"""A site's half of any method, its uploads clipped, noised and compressed; see `protection`.

Noise that is used twice is gone from the difference. So it depends on all that has led to what is
noised: the same round over again gets the same noise, which a run that is resumed needs, and any
other gets noise of its own. Every release is counted, also in a round that the site has gone back
from.

With noise, a site's scalars (loss, validation PSNR) stay at the site: they come from its images,
and the noise does not cover them. In their place the log gets epsilon. Its number of slices is
still sent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedm2ct.config_protection import PrivacyConfig
from fedm2ct.federation.accounting import slice_epsilon, update_epsilon
from fedm2ct.federation.compression import apply_change, change, encode, remainder
from fedm2ct.federation.method import ClientHalf, Compression, State, Upload
from fedm2ct.federation.methods.counted import Before
from fedm2ct.federation.storage import CheckpointError, state_digest
from fedm2ct.federation.update_noise import clip_and_noise
from fedm2ct.learning.seeds import SECRET_BYTES, generator, secret_generator
from fedm2ct.learning.slice_privacy import SlicePrivacy
from fedm2ct.learning.trainer import part_of

_OWN = "protection."
_FEEDBACK, _BEFORE = f"{_OWN}feedback.", f"{_OWN}before."
_SECRET, _HISTORY = f"{_OWN}secret", f"{_OWN}history"


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
    site
        Name of the site.
    seed
        Seed of which slices are drawn where nothing is noised, so that it need not be secret.
    secret
        What all noise is drawn from, and which slices are drawn; the server must not know it.
    slices
        What the site's trainer does slice by slice, None for nothing.
    sampling_rate
        Probability with which a slice takes part in a step, for the accountant.
    updates
        Noised updates released so far, for the accountant.
    """

    compression: Compression
    privacy: PrivacyConfig
    site: str
    seed: int
    secret: bytes
    slices: SlicePrivacy | None = None
    sampling_rate: float = 1.0
    updates: int = 0

    @property
    def noised(self) -> bool:
        """Whether any noise is added, so that there is something to account for."""
        return has_noise(self.privacy)

    def draw(self, purpose: str, *labels: str | int) -> np.random.Generator:
        """Return what the noise of a purpose is drawn from."""
        return secret_generator(self.secret, self.site, purpose, *labels)

    def epsilons(self) -> dict[str, float]:
        """Return what has been spent so far, for the log."""
        spent, delta = {}, self.privacy.delta
        if self.privacy.update_noise > 0:
            spent["epsilon_update"] = update_epsilon(self.privacy.update_noise, self.updates, delta)
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
    history
        SHA-256 over all that the site has been sent and has held, up to the last round: a label of
        the noise. Kept with noise only.

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
        self.history = b""
        self._counted: int | None = None

    def heard(self, counted: int) -> None:
        """See `ClientHalf.heard`."""
        self.inner.heard(counted)
        self.feedback = self.before.unless_counted(counted, self.feedback)
        self._counted = counted

    def fit(self, round_index: int, shared: State) -> Upload:
        """Train for one round; return the protected upload, or nothing of a site that abstains."""
        self._prepare(round_index, shared)
        upload = self.inner.fit(round_index, shared)
        if upload.abstains:
            return replace(upload, metrics={}) if self.protection.noised else upload
        base = self.inner.changes_of(shared)
        update = self._noised(change(upload.shared, base))
        sent = self._compressed(update, base, round_index)
        metrics = dict(upload.metrics)
        if self.protection.noised:
            metrics = self.protection.epsilons()
        return replace(upload, shared=sent, metrics=metrics)

    def _prepare(self, round_index: int, shared: State) -> None:
        """Set what the round's slices are drawn from.

        The private state holds the history of the rounds before. That the label depends on what was
        sent, and not on what came of it alone, keeps equal noise from telling of equal results.
        """
        protection, slices = self.protection, self.protection.slices
        if protection.noised:
            held = (state_digest(shared), state_digest(self.private_state()))
            text = "/".join(map(str, (round_index, self._counted, *held)))
            self.history = hashlib.sha256(text.encode()).digest()
        if slices is not None and protection.noised:
            slices.draw = protection.draw("slices", self.history.hex())
        elif slices is not None:
            slices.draw = generator(protection.seed, protection.site, "batches", round_index)

    def _noised(self, update: State) -> State:
        privacy = self.protection.privacy
        if privacy.update_clip is None:
            return update
        if privacy.update_noise > 0:
            self.protection.updates += 1
        # The update as well: on a GPU the same round over again may differ in its last bits.
        draw = self.protection.draw("update noise", self.history.hex(), state_digest(update))
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
        """Return the method's private state and what was kept back; with noise, what it needs."""
        own = {f"{_FEEDBACK}{name}": tensor for name, tensor in self.feedback.items()}
        own |= {f"{_BEFORE}{name}": tensor for name, tensor in self.before.as_state().items()}
        if self.protection.noised:
            own[_SECRET] = _as_tensor(self.protection.secret)
            own[_HISTORY] = _as_tensor(self.history)
        return {**self.inner.private_state(), **own}

    def load_private_state(self, state: State) -> None:
        """See `ClientHalf.load_private_state`.

        Raises
        ------
        CheckpointError
            If the noise so far was drawn from a secret that can be found by trying.
        """
        if self.protection.noised:
            self.protection.secret = _secret_of(state, self.protection.site)
            self.history = _as_bytes(state[_HISTORY])
        self.inner.load_private_state({n: t for n, t in state.items() if not n.startswith(_OWN)})
        self.feedback = part_of(state, _FEEDBACK)
        self.before = Before.from_state(part_of(state, _BEFORE))

    def spent(self) -> dict[str, int]:
        """Return the noised updates released and the steps taken on single slices."""
        if not self.protection.noised:
            return {}
        slices = self.protection.slices
        return {"updates": self.protection.updates, "steps": slices.steps if slices else 0}

    def load_spent(self, counts: Mapping[str, int]) -> None:
        """See `ClientHalf.load_spent`."""
        self.protection.updates = max(self.protection.updates, counts.get("updates", 0))
        if self.protection.slices is not None:
            slices = self.protection.slices
            slices.steps = max(slices.steps, counts.get("steps", 0))

    @property
    def fingerprint(self) -> str:
        """See `ClientHalf.fingerprint`."""
        return self.inner.fingerprint


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def _as_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.tolist())


def _secret_of(state: State, site: str) -> bytes:
    stored = state.get(_SECRET)
    if stored is None or stored.dtype != torch.uint8 or stored.numel() != SECRET_BYTES:
        raise CheckpointError(
            f"the private state of site {site} has no secret of {SECRET_BYTES} bytes: an earlier "
            "version drew the noise of [privacy] from 32 bits, which can be tried, so that what "
            "was sent is not protected; start again in another output folder"
        )
    return _as_bytes(stored)
