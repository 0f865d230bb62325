"""Reconstruct test slices with every site's model and score them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedm2ct.data.simulate import PairedData
from fedm2ct.device import compute_device
from fedm2ct.evaluation.metrics import FULL_RANGE_HU, body_mask, psnr, rmse_hu, ssim, window_range
from fedm2ct.evaluation.perceptual import SMALLEST_SIDE, Perceptual
from fedm2ct.model.ts_iradonmap import Reconstruction, TSiRadonMAP
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.consistency import Consistency
from fedm2ct.units import relative_to_hu

HuArray = NDArray[np.float32]
Reconstructor = Callable[[torch.Tensor], torch.Tensor]
SLICES_AT_ONCE = 8


@dataclass(frozen=True)
class SliceScores:
    """One number a slice and metric; `patients` says whose slice it is.

    Perceptual metrics are None where they were not asked for or not to be had; the Frechet distance
    is one number, of all slices.
    """

    psnr_db: list[float]
    ssim: list[float]
    rmse_hu: list[float]
    psnr_window_db: list[float]
    ssim_window: list[float]
    residual: list[float]
    residual_to_fbp: list[float]
    residual_to_truth: list[float]
    patients: list[str]
    lpips: list[float] | None = None
    frechet_vgg16_relu3_3: float | None = None


def to_hu(relative: torch.Tensor) -> HuArray:
    """Return images ``(n, 1, row, column)`` as float32 HU ``(n, row, column)``."""
    array: HuArray = relative_to_hu(relative[:, 0].detach().cpu()).numpy().astype(np.float32)
    return array


def outputs_of(model: TSiRadonMAP) -> dict[str, Reconstructor]:
    """Return the model's reconstruction and, where it has both networks, each one's alone.

    The model is moved to `compute_device`, where the tensors that they are asked for must lie.
    Asked for the same tensor one after the other, they share one pass of the model.
    """
    model.to(compute_device())
    last: list[tuple[torch.Tensor, Reconstruction]] = []

    def output(name: str, sinogram: torch.Tensor) -> torch.Tensor:
        if not last or last[0][0] is not sinogram:
            last[:] = [(sinogram, model(sinogram))]
        image: torch.Tensor = getattr(last[0][1], name)
        return image

    both = model.private is not None and model.shared is not None
    names = {"": "final", **({"private": "private", "shared": "shared"} if both else {})}
    return {key: partial(output, name) for key, name in names.items()}


@torch.no_grad()
def reconstruct_all(
    reconstructors: Mapping[str, Reconstructor],
    sinogram: torch.Tensor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, HuArray]:
    """Reconstruct in small batches with several reconstructors; HU ``(n, row, column)`` of each.

    Each batch is moved to `compute_device` before.
    """
    parts: dict[str, list[HuArray]] = {name: [] for name in reconstructors}
    done = 0
    for part in sinogram.split(SLICES_AT_ONCE):
        moved = part.to(compute_device())
        for name, reconstructor in reconstructors.items():
            parts[name].append(to_hu(reconstructor(moved)))
        done += len(part)
        progress(done, len(sinogram))
    return {name: np.concatenate(images) for name, images in parts.items()}


def reconstruct(
    reconstructor: Reconstructor,
    sinogram: torch.Tensor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HuArray:
    """Reconstruct in small batches; return HU ``(n, row, column)``."""
    return reconstruct_all({"": reconstructor}, sinogram, progress)[""]


def score(
    image: HuArray,
    truth: HuArray,
    patients: Sequence[str],
    window: str,
    consistency: Consistency,
    perceptual: Perceptual | None = None,
) -> SliceScores:
    """Score slices in the full range and in a display window, RMSE inside the body; residuals."""
    shown = window_range(window)
    lpips = frechet = None
    if perceptual is not None and min(truth.shape[-2:]) >= SMALLEST_SIDE:
        lpips = perceptual.lpips(image, truth, shown).tolist()
        frechet = perceptual.frechet(image, truth, shown) if len(truth) > 1 else None
    return SliceScores(
        psnr_db=psnr(image, truth, FULL_RANGE_HU).tolist(),
        ssim=ssim(image, truth, FULL_RANGE_HU).tolist(),
        rmse_hu=rmse_hu(image, truth, body_mask(truth)).tolist(),
        psnr_window_db=psnr(image, truth, shown).tolist(),
        ssim_window=ssim(image, truth, shown).tolist(),
        **consistency.scores(image),
        patients=list(patients),
        lpips=lpips,
        frechet_vgg16_relu3_3=frechet,
    )


def assess(
    reconstructors: Mapping[str, Reconstructor],
    data: PairedData,
    protocol: Protocol,
    patients: Sequence[str],
    window: str,
    perceptual: Perceptual | None = None,
) -> tuple[dict[str, HuArray], dict[str, SliceScores]]:
    """Reconstruct and score one site's test slices with several reconstructors."""
    truth, consistency = to_hu(data.truth), Consistency(data, protocol)
    images = reconstruct_all(reconstructors, data.projections)
    scores = {
        n: score(x, truth, patients, window, consistency, perceptual) for n, x in images.items()
    }
    return images, scores
