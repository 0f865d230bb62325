"""Randomness by name: every generator is derived from the run's seed and what it is for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that depends on the run's seed and on every label."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a CPU generator for the purpose that the labels name."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


@contextmanager
def seeded_initialisation(seed: int, *labels: str | int) -> Iterator[None]:
    """Initialise network weights reproducibly, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *labels))
        yield
