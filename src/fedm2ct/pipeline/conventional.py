"""The methods that train nothing: FBP, SIRT and total variation.

SIRT's number of iterations and the strength of the total variation are a site's own choice, made
as learned methods choose their round: the best mean PSNR on the site's validation slices.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedm2ct.data.simulate import PairedData
from fedm2ct.device import compute_device
from fedm2ct.federation.methods import METHODS
from fedm2ct.learning.losses import validation_psnr
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.iterative import sirt
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.physics.total_variation import statistical_total_variation
from fedm2ct.pipeline.assess import SLICES_AT_ONCE, Reconstructor

CONVENTIONAL = ("fbp", "sirt", "tv")
ALL_METHODS = (*CONVENTIONAL, *METHODS)
"""Every method that a run may have."""

CHOICES: dict[str, tuple[str, tuple[float, ...]]] = {
    "sirt": ("iterations", (10, 20, 40, 80, 160, 320)),
    "tv": ("strength", (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
}
"""What is chosen for a method, and from which values."""

TV_ITERATIONS = 200

Settings = Mapping[str, Any]


def reconstructor_of(method: str, protocol: Protocol, settings: Settings) -> Reconstructor:
    """Return a conventional method of a protocol.

    Parameters
    ----------
    method
        One of `CONVENTIONAL`.
    protocol
        Geometry, grid and dose.
    settings
        What `choose` returned; FBP needs nothing of it.
    """
    geometry, grid = protocol.geometry, protocol.grid
    if method == "fbp":
        return lambda sinogram: fbp(sinogram, geometry, grid)
    projector = Projector(geometry, grid)
    if method == "sirt":
        return lambda sinogram: sirt(sinogram, projector, int(settings["iterations"]))

    def tv(sinogram: Tensor) -> Tensor:
        image, strength = fbp(sinogram, geometry, grid), float(settings["strength"])
        return statistical_total_variation(
            sinogram, image, projector, protocol, strength, TV_ITERATIONS
        )

    return tv


@torch.no_grad()
def choose(method: str, protocol: Protocol, validation: PairedData) -> dict[str, Any]:
    """Choose a method's setting by the mean PSNR on a site's validation slices.

    Returns
    -------
    The chosen value under its name, and under ``validation_psnr_db`` what every value tried reached
    (of equal ones the first is chosen); empty for FBP, which leaves nothing to choose.
    """
    if method not in CHOICES:
        return {}
    name, values = CHOICES[method]
    reached, device = {}, compute_device()
    for value in values:
        reconstructor = reconstructor_of(method, protocol, {name: value})
        parts = validation.projections.split(SLICES_AT_ONCE)
        image = torch.cat([reconstructor(part.to(device)).cpu() for part in parts])
        reached[value] = validation_psnr(image, validation.truth)
    best = max(reached, key=lambda value: reached[value])
    return {name: best, "validation_psnr_db": {f"{v:g}": db for v, db in reached.items()}}
