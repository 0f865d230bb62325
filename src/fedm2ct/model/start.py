"""The image that the networks of a TS-iRadonMAP start from, where it is not FBP.

An iterative reconstruction agrees with the measurement by its statistics, which no network that
sees FBP alone has learned from a few patients. Here it is not tuned: one setting for all sites,
stopped early; what it leaves, in noise and in contrast, is for the networks to correct.
"""

import hashlib
import io
import json
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
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol, protocol_to_dict
from fedm2ct.physics.total_variation import statistical_total_variation

Start = Literal["fbp", "sirt", "tv"]

SIRT_ITERATIONS = 60
TV_ITERATIONS = 200
TV_STRENGTH = 6e-5
_AT_ONCE = 8


@torch.no_grad()
def iterative(kind: Start, sinogram: Tensor, image: Tensor, protocol: Protocol) -> Tensor:
    """Reconstruct line integrals iteratively.

    Parameters
    ----------
    kind
        ``sirt`` or ``tv``.
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
    pairs = zip(sinogram.split(_AT_ONCE), image.split(_AT_ONCE), strict=True)
    return torch.cat(
        [
            statistical_total_variation(p, start, projector, protocol, TV_STRENGTH, TV_ITERATIONS)
            for p, start in pairs
        ]
    )


@torch.no_grad()
def analytical_input(start: Start, sinogram: Tensor, protocol: Protocol) -> Tensor:
    """Return what networks see and is not learned: FBP, and before it the image to start from.

    Parameters
    ----------
    start
        Which image that is; with ``fbp`` there is one channel, otherwise there are two.
    sinogram
        Dimensionless line integrals, shape ``(batch, 1, view, bin)``.
    protocol
        Geometry, grid and dose.

    Returns
    -------
    Tensor
        Relative attenuation, shape ``(batch, 1 or 2, row, column)``. No gradient passes.
    """
    image = fbp(sinogram, protocol.geometry, protocol.grid)
    if start == "fbp":
        return image
    begun = _kept(start, sinogram, protocol)
    if begun is None:
        begun = iterative(start, sinogram, image, protocol)
        _keep(start, sinogram, protocol, begun)
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


def _place(start: Start, sinogram: Tensor, protocol: Protocol) -> Path | None:
    """Return the file of an image: named by all that it depends on."""
    folder = _folder.get()
    if folder is None:
        return None
    settings = (start, SIRT_ITERATIONS, TV_ITERATIONS, TV_STRENGTH, tuple(sinogram.shape))
    described = json.dumps([settings, protocol_to_dict(protocol)], sort_keys=True)
    values = sinogram.detach().cpu().contiguous().numpy().tobytes()
    return folder / f"{hashlib.sha256(described.encode() + values).hexdigest()}.npy"


def _kept(start: Start, sinogram: Tensor, protocol: Protocol) -> Tensor | None:
    path = _place(start, sinogram, protocol)
    if path is None or not path.exists():
        return None
    return torch.from_numpy(np.load(path, allow_pickle=False)).to(sinogram.device)


def _keep(start: Start, sinogram: Tensor, protocol: Protocol, image: Tensor) -> None:
    path = _place(start, sinogram, protocol)
    if path is not None:
        buffer = io.BytesIO()
        np.save(buffer, image.detach().cpu().numpy(), allow_pickle=False)
        write_atomically(path, buffer.getvalue())


@lru_cache(maxsize=16)
def _projector(protocol: Protocol) -> Projector:
    return Projector(protocol.geometry, protocol.grid)
