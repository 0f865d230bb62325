r"""Perceptual metrics: LPIPS between pairs, and a Frechet distance between sets of images.

Both look at a CT image through a display window: HU are clipped to it, mapped to [-1, 1], given to
all three channels, and shifted and scaled channel by channel as the networks' training images were.

* LPIPS 0.1 with AlexNet and its published linear heads (Zhang et al. 2018,
  doi 10.1109/CVPR.2018.00068): features of five layers are normalised over channels to length 1,
  their squared differences weighted by channel, averaged over the image, and summed over layers.
* `frechet_vgg16_relu3_3`: the Frechet distance (Dowson and Landau 1982,
  doi 10.1016/0047-259X(82)90077-X) between normal distributions fitted to VGG16's relu3_3, 256
  channels averaged over the image. It is no FID, which is Inception-v3's; it depends on the number
  of images and compares only at the same number.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

FloatArray = NDArray[np.float64]

FRECHET: Final = "frechet_vgg16_relu3_3"
SMALLEST_SIDE: Final = 32
"""Below, AlexNet's second pooling has nothing to pool."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_ALEXNET_STRIDE, _ALEXNET_PADDING = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED_BEFORE = {"alexnet": (1, 2), "vgg16": (2, 4)}
_EPSILON = 1e-10
_AT_ONCE = 8


class Perceptual:
    """The metrics, with their networks.

    Features of a Frechet distance's reference are kept: a site's outputs all have the same truth,
    and the networks take longer than its other metrics together.

    Parameters
    ----------
    weights
        By name, see `fedm2ct.data.network_weights.load_weights`.
    """

    def __init__(self, weights: Mapping[str, ArrayLike]) -> None:
        self.weights = {
            n: _channels_last(torch.as_tensor(np.asarray(a))) for n, a in weights.items()
        }
        self._references: dict[tuple[object, ...], FloatArray] = {}

    def lpips(
        self, image_hu: ArrayLike, truth_hu: ArrayLike, window_hu: tuple[float, float]
    ) -> FloatArray:
        """Return LPIPS of each slice, shape ``(n,)``; 0 for equal images, lower is better.

        Parameters
        ----------
        image_hu, truth_hu
            ``(rows, columns)`` or ``(n, rows, columns)`` in HU.
        window_hu
            Lowest and highest HU of the display window.

        Raises
        ------
        ValueError
            If shapes differ, a side is below 32, or a value is not finite.
        """
        image, truth = network_input(image_hu, window_hu), network_input(truth_hu, window_hu)
        if image.shape != truth.shape:
            raise ValueError(
                f"image {tuple(image.shape)} and truth {tuple(truth.shape)} must be alike"
            )
        pairs = zip(image.split(_AT_ONCE), truth.split(_AT_ONCE), strict=True)
        return np.concatenate([self.lpips_of_inputs(a, b).numpy() for a, b in pairs]).astype(float)

    @torch.no_grad()
    def lpips_of_inputs(self, a: Tensor, b: Tensor) -> Tensor:
        """Return LPIPS of RGB images ``(n, 3, rows, columns)`` in [-1, 1], shape ``(n,)``."""
        total = torch.zeros(len(a))
        layers = zip(self._alexnet(a), self._alexnet(b), strict=True)
        for k, (of_a, of_b) in enumerate(layers):
            squared = (_unit(of_a) - _unit(of_b)).square()
            heads = self.weights[f"lpips.{k}.weight"]
            total += (squared.mean(dim=(2, 3)) * heads).sum(dim=1)
        return total

    @torch.no_grad()
    def features(self, image_hu: ArrayLike, window_hu: tuple[float, float]) -> FloatArray:
        """Return VGG16's relu3_3, averaged over each slice, shape ``(n, 256)``; see `lpips`."""
        parts = network_input(image_hu, window_hu).split(_AT_ONCE)
        found = [self._layers("vgg16", part, 7)[-1].mean(dim=(2, 3)) for part in parts]
        return torch.cat(found).numpy().astype(np.float64)

    def frechet(
        self, images_hu: ArrayLike, reference_hu: ArrayLike, window_hu: tuple[float, float]
    ) -> float:
        """Return `frechet_vgg16_relu3_3` between two sets of slices, which need be no pairs.

        Raises
        ------
        ValueError
            If a set has fewer than two slices, and as for `lpips`.
        """
        reference = np.ascontiguousarray(reference_hu, dtype=np.float64)
        key = (hashlib.sha256(reference.tobytes()).digest(), reference.shape, tuple(window_hu))
        if key not in self._references:
            self._references[key] = self.features(reference, window_hu)
        return frechet_distance(self.features(images_hu, window_hu), self._references[key])

    def _alexnet(self, image: Tensor) -> list[Tensor]:
        return self._layers("alexnet", image, 5)

    def _layers(self, name: str, image: Tensor, count: int) -> list[Tensor]:
        """Return the rectified output of each convolution."""
        outputs = []
        x = (image - image.new_tensor(_SHIFT)[:, None, None]) / image.new_tensor(_SCALE)[
            :, None, None
        ]
        pool = _POOLS[name]
        for k in range(count):
            if k in _POOLED_BEFORE[name]:
                x = pool(x)
            stride, padding = (
                (_ALEXNET_STRIDE[k], _ALEXNET_PADDING[k]) if name == "alexnet" else (1, 1)
            )
            weight, bias = self.weights[f"{name}.{k}.weight"], self.weights[f"{name}.{k}.bias"]
            x = functional.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
            outputs.append(x)
        return outputs


_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "alexnet": lambda x: functional.max_pool2d(x, 3, 2),
    "vgg16": lambda x: functional.max_pool2d(x, 2, 2),
}


def _channels_last(weight: Tensor) -> Tensor:
    """Return a weight as float32; a kernel in the layout in which CPUs convolve fastest."""
    layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
    return weight.float().contiguous(memory_format=layout)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


def network_input(hu: ArrayLike, window_hu: tuple[float, float]) -> Tensor:
    """Return what the networks see of CT images: ``(n, 3, rows, columns)`` in [-1, 1].

    Parameters
    ----------
    hu
        ``(rows, columns)`` or ``(n, rows, columns)``.
    window_hu
        Lowest and highest HU; what lies outside is clipped.

    Raises
    ------
    ValueError
        If the shape does not fit, a side is below 32, a value is not finite, or the window is
        empty.
    """
    low, high = window_hu
    array = np.asarray(hu, dtype=np.float64)
    if array.ndim not in (2, 3) or min(array.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"images {array.shape} must be (rows, columns) or (n, rows, columns), "
            f"with {SMALLEST_SIDE} pixels a side at least"
        )
    if not np.isfinite(array).all():
        raise ValueError("an image holds NaN or infinite values and cannot be scored")
    if not low < high:
        raise ValueError(f"the window is {window_hu}, expected (low, high) with low < high")
    scaled = (array.clip(low, high) - low) / (high - low) * 2 - 1
    flat = torch.from_numpy(scaled.reshape(-1, 1, *array.shape[-2:])).float()
    return flat.expand(-1, 3, -1, -1)


def frechet_distance(x: FloatArray, y: FloatArray) -> float:
    r"""Return the squared Frechet distance of normal distributions fitted to two samples.

    .. math:: |m_x - m_y|^2 + \mathrm{tr}\,C_x + \mathrm{tr}\,C_y
              - 2\,\mathrm{tr}\,(C_x^{1/2} C_y C_x^{1/2})^{1/2}

    With fewer samples than features the covariances are singular, and a matrix root of their
    product loses digits. None is taken: with centred samples ``X`` of n rows and ``Y`` of m, the
    last trace is the nuclear norm of ``X Y^T / sqrt((n - 1)(m - 1))``, exact at any rank. No
    shrinkage, so that the distance of small samples is biased upwards.

    Parameters
    ----------
    x, y
        ``(samples, features)``.

    Raises
    ------
    ValueError
        If a sample has fewer than two rows or the numbers of features differ.
    """
    if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"a Frechet distance needs two samples each, not {x.shape}, {y.shape}")
    centred_x, centred_y = (a - a.mean(axis=0) for a in (x, y))
    root_x, root_y = (
        np.linalg.qr(a, mode="r") / np.sqrt(len(a) - 1) for a in (centred_x, centred_y)
    )
    shared = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    spread = (root_x**2).sum() + (root_y**2).sum()
    moved = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return float(max(0.0, moved + spread - 2 * shared))
