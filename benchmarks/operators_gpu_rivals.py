"""ASTRA's and torchtomo's GPU paths on the same scan, in the same run, where they are installed.

Both work on tensors that are on the GPU already. ASTRA has no batches: a batch is a loop.
torchtomo cuts rays off at the circle in the image, so it does about a fifth less, and its
``backproject`` normalises on the way. Each forward projection of a centred disc is compared with
the exact one, so that a geometry gone wrong shows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, ImageGrid
from fedm2ct.physics.phantoms import ellipse_image, ellipse_sinogram, water_disc
from fedm2ct.units import MU_WATER_PER_MM

Clock = Callable[[Callable[[], object]], dict[str, float]]
Operations = dict[str, Callable[[Tensor, Tensor], object]]


def astra_operations(geometry: FanGeometry, grid: ImageGrid) -> Operations:
    """Return ASTRA's projector and its adjoint; both fill their second argument."""
    import astra
    import astra.experimental

    half = grid.field_of_view_mm / 2
    scan = astra.create_proj_geom(
        "fanflat",
        geometry.detector_pitch_mm,
        geometry.n_bins,
        geometry.angles,
        geometry.source_to_isocentre_mm,
        geometry.source_to_detector_mm - geometry.source_to_isocentre_mm,
    )
    volume = astra.create_vol_geom(*grid.shape, -half, half, -half, half)
    projector = astra.create_projector("cuda", scan, volume)

    def project(x: Tensor, y: Tensor) -> Tensor:
        for image, sinogram in zip(x[:, 0], y[:, 0], strict=True):
            astra.experimental.direct_FP2D(projector, image, sinogram)
        return y

    def adjoint(x: Tensor, y: Tensor) -> Tensor:
        for image, sinogram in zip(x[:, 0], y[:, 0], strict=True):
            astra.experimental.direct_BP2D(projector, image, sinogram)
        return x

    return {"project": project, "adjoint": adjoint}


def torchtomo_operations(geometry: FanGeometry, grid: ImageGrid) -> Operations:
    """Return torchtomo's maps, lengths in pixels."""
    import torchtomo

    behind = geometry.source_to_detector_mm - geometry.source_to_isocentre_mm
    fan = torchtomo.FanBeam(
        img_size=grid.columns,
        n_angles=geometry.n_views,
        n_det=geometry.n_bins,
        src_dist=geometry.source_to_isocentre_mm / grid.pixel_mm,
        det_dist=behind / grid.pixel_mm,
        det_spacing=geometry.detector_pitch_mm / grid.pixel_mm,
        angles=torch.from_numpy(geometry.angles).float(),
        circle=False,
        backend="cuda",
    ).cuda()
    return {
        "project": lambda x, y: fan(x),
        "adjoint": lambda x, y: fan.adjoint(y),
        "backproject": lambda x, y: fan.backproject(y),
    }


def disc_error(operations: Operations, geometry: FanGeometry, grid: ImageGrid) -> float:
    """Return the relative error of a disc's projection, its scale and orientation left free."""
    disc = water_disc(grid.field_of_view_mm / 4)
    exact = ellipse_sinogram(disc, geometry).cuda() / MU_WATER_PER_MM
    image = ellipse_image(disc, grid, 8).float().cuda()
    out = torch.zeros(exact.shape, device="cuda")
    found = operations["project"](image, out)
    assert isinstance(found, Tensor)
    scale = torch.sum(found * exact) / torch.sum(found.double() * found)
    return float((scale * found - exact).norm() / exact.norm())


def rivals(geometry: FanGeometry, grid: ImageGrid, milliseconds: Clock) -> dict[str, Any]:
    """Time what is installed; what is not, or fails, says why."""
    found: dict[str, Any] = {}
    for name, make in (("astra", astra_operations), ("torchtomo", torchtomo_operations)):
        try:
            operations = make(geometry, grid)
            found[name] = {"error of a disc": disc_error(operations, geometry, grid), "ms": []}
            for batch in (1, 8):
                x = torch.rand((batch, 1, *grid.shape), device="cuda")
                y = torch.rand((batch, 1, *geometry.shape), device="cuda")
                for operation, apply in operations.items():
                    time = milliseconds(lambda f=apply, x=x, y=y: f(x, y))  # type: ignore[misc]
                    found[name]["ms"].append({"map": operation, "batch": batch, **time})
        except Exception as error:  # another package's failure is a result, not the end of ours
            found[name] = f"{type(error).__name__}: {error}"
        print(name, found[name], flush=True)
    return found
