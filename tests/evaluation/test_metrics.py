"""Metrics against scikit-image, against hand-computed values, and their refusals."""

import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from fedm2ct.evaluation.metrics import (
    FULL_RANGE_HU,
    WINDOWS,
    body_mask,
    psnr,
    rmse_hu,
    ssim,
    window_range,
)


def pair(n: int = 3, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Structured truth from -1000 to 1500 HU, and a noisy, blurred copy of it."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size] / size
    truth = np.stack([250 + 1250 * np.sin(9 * x + k) * np.cos(7 * y) for k in range(n)])
    image = 0.9 * truth + rng.normal(0, [[[40.0]], [[90.0]], [[150.0]]][:n], truth.shape)
    return image.astype(np.float32), truth.astype(np.float32)


RANGES = [FULL_RANGE_HU, window_range("chest"), window_range("abdomen")]


@pytest.mark.parametrize("span", RANGES)
def test_psnr_is_scikit_images_after_clipping(span: tuple[float, float]):
    image, truth = pair()
    expected = [
        peak_signal_noise_ratio(
            t.clip(*span).astype(float), x.clip(*span).astype(float), data_range=span[1] - span[0]
        )
        for x, t in zip(image, truth, strict=True)
    ]
    np.testing.assert_allclose(psnr(image, truth, span), expected, atol=1e-4)


@pytest.mark.parametrize("span", RANGES)
def test_ssim_is_scikit_images_in_wangs_setting(span: tuple[float, float]):
    image, truth = pair()
    expected = [
        structural_similarity(
            t.clip(*span).astype(float) - span[0],
            x.clip(*span).astype(float) - span[0],
            data_range=span[1] - span[0],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            K1=0.01,
            K2=0.03,
        )
        for x, t in zip(image, truth, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, truth, span), expected, atol=1e-6)
    assert len(set(np.round(expected, 3))) == 3


def test_rmse_is_scikit_images_and_honours_the_mask():
    image, truth = pair()
    expected = [
        np.sqrt(mean_squared_error(t.astype(float), x.astype(float)))
        for x, t in zip(image, truth, strict=True)
    ]
    np.testing.assert_allclose(rmse_hu(image, truth), expected, rtol=1e-12)
    mask = np.zeros(truth.shape, bool)
    mask[0, 3, 4] = True
    mask[1, 5:7, 5] = True
    values = rmse_hu(image, truth, mask)
    assert values[0] == pytest.approx(abs(float(image[0, 3, 4]) - float(truth[0, 3, 4])))
    assert np.isnan(values[2])


def test_hand_computed_psnr():
    truth = np.zeros((4, 4))
    assert psnr(truth + 40.95, truth)[0] == pytest.approx(40.0)
    assert psnr(truth, truth)[0] == np.inf
    # clipped to the range first: both become 3071
    assert psnr(truth + 9000, truth + 4000)[0] == np.inf


def test_identical_images_and_single_slices():
    image, truth = pair(1)
    assert ssim(truth[0], truth[0]) == pytest.approx([1.0])
    assert psnr(image[0], truth[0]).shape == rmse_hu(image[0], truth[0]).shape == (1,)


def test_windows():
    assert window_range("abdomen") == (-150.0, 250.0)
    assert WINDOWS["head"] == (40, 80)
    with pytest.raises(ValueError, match="no display window 'liver'"):
        window_range("liver")


@pytest.mark.parametrize("metric", [psnr, ssim, rmse_hu])
def test_bad_input_is_refused(metric):
    image, truth = pair()
    with pytest.raises(ValueError, match="must both be"):
        metric(image[:2], truth)
    with pytest.raises(ValueError, match="must both be"):
        metric(image[None], truth[None])
    broken = image.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image holds NaN"):
        metric(broken, truth)


def test_bad_ranges_masks_and_sizes_are_refused():
    image, truth = pair()
    with pytest.raises(ValueError, match="low < high"):
        psnr(image, truth, (100, 100))
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(image[:, :10], truth[:, :10])
    with pytest.raises(ValueError, match="mask has shape"):
        rmse_hu(image, truth, np.ones((2, 40, 40), bool))


def test_body_mask_keeps_lungs_and_drops_the_table_and_air():
    hu = np.full((2, 40, 40), -1000.0)
    hu[0, 8:30, 6:34] = 30  # body
    hu[0, 12:20, 10:18] = -850  # lung
    hu[0, 36:38, 4:36] = 100  # table
    mask = body_mask(hu)
    expected = np.zeros((40, 40), bool)
    expected[8:30, 6:34] = True
    np.testing.assert_array_equal(mask[0], expected)
    assert not mask[1].any()
    np.testing.assert_array_equal(body_mask(hu[0]), expected)
