"""Image quality in HU: PSNR, SSIM and RMSE, each with its range and settings stated.

Every function takes ``(rows, columns)`` or ``(n, rows, columns)`` arrays in HU and returns one
number per slice, shape ``(n,)``. PSNR and SSIM first clip both images to the stated range, so
that a display window measures what a reader sees in it.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from fedm2ct.units import HU_MAX, HU_MIN

FloatArray = NDArray[np.float64]

FULL_RANGE_HU: Final = (HU_MIN, HU_MAX)
WINDOWS: Final[dict[str, tuple[float, float]]] = {
    "chest": (-600.0, 1500.0),
    "abdomen": (50.0, 400.0),
    "head": (40.0, 80.0),
}
"""Display windows as (centre, width) in HU."""

_SIGMA, _RADIUS, _K1, _K2 = 1.5, 5, 0.01, 0.03
BODY_THRESHOLD_HU: Final = -300.0


def window_range(name: str) -> tuple[float, float]:
    """Lowest and highest HU shown by a named display window.

    Raises
    ------
    ValueError
        If there is no such window.
    """
    if name not in WINDOWS:
        raise ValueError(f"no display window {name!r}; there are {', '.join(WINDOWS)}.")
    centre, width = WINDOWS[name]
    return centre - width / 2, centre + width / 2


def psnr(
    image_hu: ArrayLike, truth_hu: ArrayLike, data_range_hu: tuple[float, float] = FULL_RANGE_HU
) -> FloatArray:
    """Peak signal-to-noise ratio in dB: ``20 log10(range / RMSE)`` after clipping to the range.

    Returns
    -------
    One value per slice, shape ``(n,)``; infinite for identical images.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, or the range is empty.
    """
    image, truth = _clipped_pair(image_hu, truth_hu, data_range_hu)
    mse = ((image - truth) ** 2).mean(axis=(1, 2))
    span = data_range_hu[1] - data_range_hu[0]
    with np.errstate(divide="ignore"):
        value: FloatArray = 10 * np.log10(span**2 / mse)
    return value


def ssim(
    image_hu: ArrayLike, truth_hu: ArrayLike, data_range_hu: tuple[float, float] = FULL_RANGE_HU
) -> FloatArray:
    """Structural similarity: Gaussian window 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03.

    Images are clipped to the range and shifted so that its lower end is 0, since SSIM is not
    invariant to an offset; population (not sample) covariance; the mean is taken over pixels
    at least 5 from the border, where the window lies inside the image.

    Returns
    -------
    One value per slice, shape ``(n,)``.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, the range is empty or a side is below 11.

    References
    ----------
    Wang et al., Image quality assessment: from error visibility to structural similarity,
    doi:10.1109/TIP.2003.819861.
    """
    image, truth = _clipped_pair(image_hu, truth_hu, data_range_hu)
    if min(image.shape[1:]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs slices of at least 11 x 11 pixels, not {image.shape[1:]}.")
    span = data_range_hu[1] - data_range_hu[0]
    pairs = zip(image - data_range_hu[0], truth - data_range_hu[0], strict=True)
    return np.array([_ssim_slice(x, y, span) for x, y in pairs])


def rmse_hu(
    image_hu: ArrayLike, truth_hu: ArrayLike, mask: NDArray[np.bool_] | None = None
) -> FloatArray:
    """Root-mean-square error in HU inside ``mask`` (the whole slice by default), not clipped.

    Returns
    -------
    One value per slice, shape ``(n,)``; NaN where the mask of a slice is empty.

    Raises
    ------
    ValueError
        If shapes differ or a value is not finite.
    """
    image, truth = _pair(image_hu, truth_hu)
    inside = np.ones(image.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    inside = inside.reshape(-1, *inside.shape[-2:])
    if inside.shape != image.shape:
        raise ValueError(f"mask has shape {inside.shape}, the images {image.shape}.")
    squares = np.where(inside, (image - truth) ** 2, 0.0).sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        value: FloatArray = np.sqrt(squares / inside.sum(axis=(1, 2)))
    return value


def body_mask(hu: ArrayLike, threshold_hu: float = BODY_THRESHOLD_HU) -> NDArray[np.bool_]:
    """Body of the patient: the largest connected part above a threshold, its holes filled.

    Lungs and gas inside the body belong to it; table, tubes and separate arms do not.

    Returns
    -------
    Boolean array of the input's shape; all false for a slice that holds only air.
    """
    image = np.asarray(hu, dtype=np.float64)
    slices = image.reshape(-1, *image.shape[-2:])
    return np.stack([_body_slice(s > threshold_hu) for s in slices]).reshape(image.shape)


def _body_slice(dense: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(dense)
    if count == 0:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax())
    return filled


def _ssim_slice(x: FloatArray, y: FloatArray, span: float) -> float:
    def blur(values: FloatArray) -> FloatArray:
        smooth: FloatArray = ndimage.gaussian_filter(values, _SIGMA, radius=_RADIUS)
        return smooth

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    inner = slice(_RADIUS, -_RADIUS)
    return float((luminance * structure)[inner, inner].mean())


def _pair(image_hu: ArrayLike, truth_hu: ArrayLike) -> tuple[FloatArray, FloatArray]:
    image = np.asarray(image_hu, dtype=np.float64)
    truth = np.asarray(truth_hu, dtype=np.float64)
    if image.shape != truth.shape or image.ndim not in (2, 3):
        raise ValueError(
            f"image {image.shape} and truth {truth.shape} must both be (rows, columns) "
            "or (n, rows, columns)."
        )
    for name, values in (("image", image), ("truth", truth)):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinite values and cannot be scored.")
    shape = (-1, *image.shape[-2:])
    return image.reshape(shape), truth.reshape(shape)


def _clipped_pair(
    image_hu: ArrayLike, truth_hu: ArrayLike, data_range_hu: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    low, high = data_range_hu
    if not low < high:
        raise ValueError(f"data_range_hu is {data_range_hu}, expected (low, high) with low < high.")
    image, truth = _pair(image_hu, truth_hu)
    return image.clip(low, high), truth.clip(low, high)
