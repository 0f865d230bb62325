"""LPIPS and the Frechet distance against routes of their own."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy import linalg

from fedm2ct.data.network_weights import load_weights
from fedm2ct.evaluation.perceptual import Perceptual, frechet_distance, network_input

WINDOW = (-150.0, 250.0)
ALEXNET = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
VGG16 = ((64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256))


def made_up_weights():
    """Return random weights in the shapes of the published ones."""
    rng = np.random.default_rng(1)
    weights = {}
    for k, (out, into, size) in enumerate(ALEXNET):
        scale = np.sqrt(2 / (into * size**2))
        weights[f"alexnet.{k}.weight"] = rng.normal(0, scale, (out, into, size, size))
        weights[f"alexnet.{k}.bias"] = rng.normal(0, 0.1, out)
        weights[f"lpips.{k}.weight"] = rng.uniform(0, 1, out)
    for k, (out, into) in enumerate(VGG16):
        weights[f"vgg16.{k}.weight"] = rng.normal(0, np.sqrt(2 / (9 * into)), (out, into, 3, 3))
        weights[f"vgg16.{k}.bias"] = rng.normal(0, 0.1, out)
    return {name: array.astype(np.float32) for name, array in weights.items()}


WEIGHTS = made_up_weights()


@pytest.fixture(scope="module")
def perceptual():
    return Perceptual(WEIGHTS)


def slices(n=2, size=40, seed=2, smooth=3):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 200, (n, size // smooth + 1, size // smooth + 1))
        .repeat(smooth, 1)
        .repeat(smooth, 2)[:, :size, :size]
    )


def convolved(x, weight, bias, stride, padding):
    """Convolve by windows and a sum of products; x ``(channel, row, column)``."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(0, np.einsum("crsij,ocij->ors", windows, weight) + bias[:, None, None])


def pooled(x, size, stride):
    windows = sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return windows.max(axis=(3, 4))


def normalised(hu):
    shown = (np.clip(hu, *WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 2 - 1
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    return (shown[None] - shift[:, None, None]) / scale[:, None, None]


def alexnet_by_hand(hu):
    x, layers = normalised(hu), []
    for k, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))):
        if k in (1, 2):
            x = pooled(x, 3, 2)
        x = convolved(
            x, WEIGHTS[f"alexnet.{k}.weight"], WEIGHTS[f"alexnet.{k}.bias"], stride, padding
        )
        layers.append(x)
    return layers


def test_lpips_against_numpy(perceptual):
    image, truth = slices(seed=2), slices(seed=3)
    expected = []
    for a, b in zip(image, truth, strict=True):
        total = 0.0
        for k, (p, q) in enumerate(zip(alexnet_by_hand(a), alexnet_by_hand(b), strict=True)):
            p, q = (f / np.sqrt((f**2).sum(axis=0)).clip(1e-10) for f in (p, q))
            heads = WEIGHTS[f"lpips.{k}.weight"]
            total += float((((p - q) ** 2).mean(axis=(1, 2)) * heads).sum())
        expected.append(total)
    found = perceptual.lpips(image, truth, WINDOW)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.shape == (2,) and min(expected) > 0.1


def test_vgg_features_against_numpy(perceptual):
    x = normalised(slices(n=1, size=32)[0])
    for k in range(7):
        if k in (2, 4):
            x = pooled(x, 2, 2)
        x = convolved(x, WEIGHTS[f"vgg16.{k}.weight"], WEIGHTS[f"vgg16.{k}.bias"], 1, 1)
    found = perceptual.features(slices(n=1, size=32), WINDOW)
    np.testing.assert_allclose(found[0], x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_equal_images_have_no_distance_and_what_the_window_hides_does_not_count(perceptual):
    image = slices()
    assert perceptual.lpips(image, image, WINDOW).tolist() == [0.0, 0.0]
    brighter = np.where(image > WINDOW[1], image + 500, image)
    assert perceptual.lpips(brighter, image, WINDOW).tolist() == [0.0, 0.0]
    assert perceptual.lpips(brighter, image, (-1000, 1000)).min() > 0
    assert perceptual.frechet(image, image[::-1], WINDOW) == pytest.approx(0, abs=1e-9)


def test_a_reference_is_looked_at_once(monkeypatch):
    perceptual, looked = Perceptual(WEIGHTS), []
    features = perceptual.features
    monkeypatch.setattr(perceptual, "features", lambda *a: (looked.append(a), features(*a))[1])
    first, second, truth = (slices(n=3, size=32, seed=k) for k in (4, 5, 6))
    found = [perceptual.frechet(image, truth, WINDOW) for image in (first, second)]
    assert len(looked) == 3
    expected = [
        frechet_distance(features(x, WINDOW), features(truth, WINDOW)) for x in (first, second)
    ]
    assert found == expected
    truth += 40
    assert perceptual.frechet(first, truth, WINDOW) != found[0]
    assert perceptual.frechet(first, truth, (-1000.0, 1000.0)) != found[0]
    assert len(looked) == 7


def test_many_slices_are_as_single_ones(perceptual):
    image, truth = slices(n=10, size=33), slices(n=10, size=33, seed=8)
    whole = perceptual.lpips(image, truth, WINDOW)
    single = [float(perceptual.lpips(a, b, WINDOW)[0]) for a, b in zip(image, truth, strict=True)]
    np.testing.assert_allclose(whole, single, rtol=1e-5)


def test_network_input_by_hand():
    hu = np.full((32, 32), 50.0)
    hu[0, :3] = (-500.0, 150.0, 900.0)
    seen = network_input(hu, WINDOW)
    assert seen.shape == (1, 3, 32, 32)
    assert seen[0, :, 0, :4].tolist() == [[-1.0, 0.5, 1.0, 0.0]] * 3


@pytest.mark.parametrize("n", [40, 600])
def test_frechet_distance_against_a_matrix_root(n):
    """With the covariances lifted a little where they are singular, for the root to exist."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(0, 1, (64, 64)) / 8
    x, y = rng.normal(0, 1, (n, 64)) @ mixing, rng.normal(0.3, 1.5, (n + 7, 64))
    lift = 1e-9 * np.eye(64)
    a, b = np.cov(x.T) + lift, np.cov(y.T) + lift
    root = linalg.sqrtm(a)
    cross = linalg.sqrtm(root @ b @ root)
    moved = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = moved + np.trace(a) + np.trace(b) - 2 * np.trace(cross).real
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y))


def test_frechet_distance_by_hand():
    """One feature: (m_x - m_y)^2 + (s_x - s_y)^2, with s^2 = 2 and 8, unbiased."""
    x, y = np.array([[-1.0], [1.0]]), np.array([[3.0], [7.0]])
    assert frechet_distance(x, y) == pytest.approx(25 + (8**0.5 - 2**0.5) ** 2)
    shifted = np.random.default_rng(1).normal(size=(5, 9))
    assert frechet_distance(shifted, shifted + 0.5) == pytest.approx(9 * 0.25)


def test_what_cannot_be_scored_is_refused(perceptual):
    good = slices()
    for bad, why in ((good[:, :31], "32 pixels"), (np.full_like(good, np.nan), "NaN")):
        with pytest.raises(ValueError, match=why):
            perceptual.lpips(bad, bad, WINDOW)
    with pytest.raises(ValueError, match="window"):
        perceptual.lpips(good, good, (100, 100))
    with pytest.raises(ValueError, match="alike"):
        perceptual.lpips(good, good[:1], WINDOW)
    with pytest.raises(ValueError, match="two samples"):
        perceptual.frechet(good[:1], good, WINDOW)


CACHED = pytest.mark.skipif(load_weights() is None, reason="published weights are not cached")


@CACHED
def test_published_weights_give_what_the_lpips_package_s_own_code_gives():
    """Figures of lpips 0.1.4, net alex, version 0.1, on the same images."""
    draw = torch.Generator().manual_seed(1)
    a = torch.rand(3, 3, 64, 64, generator=draw) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=draw)).clamp(-1, 1)
    found = Perceptual(load_weights()).lpips_of_inputs(a, b)
    expected = [0.02590914, 0.02457162, 0.02411729]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@CACHED
def test_published_weights_rank_what_they_should():
    """Blur and noise of growing strength lie ever further from the image."""
    published = Perceptual(load_weights())
    rng, image = np.random.default_rng(6), slices(n=4, size=64, smooth=8)
    noise = rng.normal(0, 1, image.shape)
    lpips = [published.lpips(image + s * noise, image, WINDOW).mean() for s in (5, 20, 80)]
    assert 0 < lpips[0] < lpips[1] < lpips[2] < 2
    frechet = [published.frechet(image + s * noise, image, WINDOW) for s in (5, 20, 80)]
    assert 0 < frechet[0] < frechet[1] < frechet[2]
