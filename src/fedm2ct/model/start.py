"""The image that the networks of a TS-iRadonMAP start from, where it is not FBP.

An iterative reconstruction agrees with the measurement by its statistics, which no network that
sees FBP alone has learned from a few patients. Here it is not tuned to patients: its setting is
one for all (``sirt``, ``tv``), or follows from the protocol (``scaled-tv``); what it leaves, in
noise and in contrast, is for the networks to correct.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedm2ct.files import write_atomically
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.image_noise import fbp_noise
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocol_files import protocol_text
from fedm2ct.physics.protocols import Protocol
from fedm2ct.physics.total_variation import statistical_total_variation

Start = Literal["fbp", "sirt", "tv", "scaled-tv"]

# Fingerprints know a start by its name alone: another number needs another name.
SIRT_ITERATIONS = 60
TV_ITERATIONS = 200
TV_STRENGTH = 6e-5
SCALED_TV_STRENGTH_PER_MM = 7.5e-5
"""Strength over the density of FBP's noise. Of the two or three that were tried at the benchmark's
14 protocols, local training did best on the validation patients near it; total variation alone
would be stronger on small pixels."""
_AT_ONCE = 8


@torch.no_grad()
def iterative(kind: Start, sinogram: Tensor, image: Tensor, protocol: Protocol) -> Tensor:
    """Reconstruct line integrals iteratively.

    Parameters
    ----------
    kind
        ``sirt``, ``tv``, or ``scaled-tv``.
    sinogram
        Dimensionless line integrals, shape ``(batch, 1, view, bin)``.
    image
        Their FBP, from which the total variation's iterations start.
    protocol
        Geometry, grid and dose.

    Returns
    -------
    Tensor
        Relative attenuation, of the shape of `image`. No gradient passes.
    """
    projector = _projector(protocol)
    if kind == "sirt":
        return torch.cat([sirt(p, projector, SIRT_ITERATIONS) for p in sinogram.split(_AT_ONCE)])
    strength = tv_strength(kind, protocol)
    pairs = zip(sinogram.split(_AT_ONCE), image.split(_AT_ONCE), strict=True)
    return torch.cat(
        [
            statistical_total_variation(p, start, projector, protocol, strength, TV_ITERATIONS)
            for p, start in pairs
        ]
    )


def tv_strength(kind: Start, protocol: Protocol) -> float:
    """Return the strength of the total variation that a protocol's networks start from.

    That of ``scaled-tv`` is proportional to the noise of the protocol's FBP, as a threshold of
    noise is (Donoho and Johnstone 1994, doi 10.1093/biomet/81.3.425), and to the size of a pixel:
    to what the noise of a square millimetre's mean would be, were it white. What smooths a noisy
    image rightly blurs a good one.
    """
    if kind == "tv":
        return TV_STRENGTH
    return SCALED_TV_STRENGTH_PER_MM * protocol.grid.pixel_mm * fbp_noise(protocol)


@torch.no_grad()
def analytical_input(
    start: Start, sinogram: Tensor, protocol: Protocol, keep: bool = True
) -> Tensor:
    """Return what networks see and is not learned: FBP, and before it the image to start from.

    Parameters
    ----------
    start
        Which image that is; with ``fbp`` there is one channel, otherwise there are two.
    sinogram
        Dimensionless line integrals, shape ``(batch, 1, view, bin)``.
    protocol
        Geometry, grid and dose.
    keep
        Whether an iterative image is worth keeping, where `starts_kept_in` says so.

    Returns
    -------
    Tensor
        Relative attenuation, shape ``(batch, 1 or 2, row, column)``. No gradient passes.
    """
    image = fbp(sinogram, protocol.geometry, protocol.grid)
    if start == "fbp":
        return image
    folder = _folder.get() if keep else None
    if folder is None:
        return torch.cat([iterative(start, sinogram, image, protocol), image], 1)
    path = folder / f"{_name(start, sinogram, protocol)}.npy"
    if path.exists():
        begun = torch.from_numpy(np.load(path, allow_pickle=False)).to(image)
    else:
        begun = iterative(start, sinogram, image, protocol)
        buffer = io.BytesIO()
        np.save(buffer, begun.detach().cpu().numpy(), allow_pickle=False)
        write_atomically(path, buffer.getvalue())
    return torch.cat([begun, image], 1)


@contextmanager
def starts_kept_in(folder: Path | None) -> Iterator[None]:
    """Keep iterative images in a folder while the context lasts, and read those that lie there.

    None keeps nothing.

    For work that reconstructs the same measurements again and again, as every method of a run
    does. Processes may share a folder.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


_folder: ContextVar[Path | None] = ContextVar("folder of iterative images", default=None)


def _name(start: Start, sinogram: Tensor, protocol: Protocol) -> str:
    """Return a hash of all that an iterative image depends on."""
    constants = (SIRT_ITERATIONS, TV_ITERATIONS, TV_STRENGTH, SCALED_TV_STRENGTH_PER_MM)
    settings = (start, constants, tuple(sinogram.shape))
    digest = hashlib.sha256(f"{settings} {protocol_text(protocol)}".encode())
    digest.update(sinogram.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _projector(protocol: Protocol) -> Projector:
    return Projector(protocol.geometry, protocol.grid)
