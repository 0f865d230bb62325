"""Randomness by name: every generator is derived from the run's seed and what it is for."""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

SECRET_BYTES = 32
Draw = torch.Generator | np.random.Generator
"""What numbers are drawn from: a `generator`, or where they must not be guessed a
`secret_generator`."""


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that depends on the run's seed and on every label."""
    return int.from_bytes(derive_secret(seed, *labels)[:8], "big") >> 1


def derive_secret(seed: int, *labels: str | int) -> bytes:
    """Return `SECRET_BYTES` in place of a secret: whoever knows the seed knows them."""
    return hashlib.sha256("/".join(map(str, (seed, *labels))).encode()).digest()


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a CPU generator for the purpose that the labels name.

    It is no secret: PyTorch uses 32 bits of the seed, which can be tried one by one.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def secret_generator(secret: bytes, *labels: str | int) -> np.random.Generator:
    """Return a generator for the purpose that the labels name, with a key of 128 bits.

    The key is taken from HMAC-SHA-256 of the labels under the secret. Philox is made for
    simulations and is no cipher: there are too many keys to be tried, and no more is claimed.
    """
    digest = hmac.digest(secret, "/".join(map(str, labels)).encode(), "sha256")
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def uniform(draw: Draw, count: int) -> Tensor:
    """Draw numbers between 0 and 1."""
    if isinstance(draw, torch.Generator):
        return torch.rand(count, generator=draw)
    return torch.from_numpy(draw.random(count))


def normal(draw: Draw, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw numbers of mean 0 and variance 1."""
    if isinstance(draw, torch.Generator):
        return torch.randn(shape, generator=draw, dtype=dtype)
    return torch.as_tensor(draw.standard_normal(tuple(shape))).to(dtype)


@contextmanager
def seeded_initialisation(seed: int, *labels: str | int) -> Iterator[None]:
    """Initialise network weights reproducibly, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *labels))
        yield
