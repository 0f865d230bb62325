"""TV by PDHG against a dense solver of another kind, its dual bound, and limits that are known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from fedm2ct.physics import total_variation as tv
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.phantoms import ellipse_image, ellipse_sinogram, shepp_logan
from fedm2ct.units import MU_WATER_PER_MM

GRID = ImageGrid(10, 12, 10.0)
GEOMETRY = ParallelGeometry(equispaced_angles(7, math.pi), 16, 10.0)
STRENGTH = 1e-3


def dense(projector):
    """Return the projector as a matrix."""
    size = math.prod(projector.grid.shape)
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *projector.grid.shape)
    return projector(unit).reshape(size, -1).numpy().T


def noisy_sinogram(seed=0, sites=1):
    truth = ellipse_image(shepp_logan(55.0), GRID)
    clean = Projector(GEOMETRY, GRID)(truth) * MU_WATER_PER_MM
    noise = torch.randn(
        (sites, 1, *GEOMETRY.shape),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return clean + 0.05 * noise


def some_weights(seed=1):
    draw = torch.rand(
        GEOMETRY.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    weights = 0.1 + 2 * draw
    weights[2, 5:9] = 0.0  # rays left out
    return weights


def differences(rows, columns):
    """Return the matrices of forward differences, written out element by element."""
    down, across = (np.zeros((rows * columns, rows * columns)) for _ in range(2))
    for i in range(rows):
        for j in range(columns):
            here = i * columns + j
            if i + 1 < rows:
                down[here, here], down[here, here + columns] = -1, 1
            if j + 1 < columns:
                across[here, here], across[here, here + 1] = -1, 1
    return down, across


def objective(matrix, target, weights, strength, image):
    down, across = differences(*GRID.shape)
    misfit = 0.5 * np.sum(weights * (matrix @ image - target) ** 2)
    return misfit + strength * np.hypot(down @ image, across @ image).sum()


def by_admm(matrix, target, weights, strength, rounds=4000, penalty=0.02):
    """Minimise by ADMM with splittings u = gradient x, v = x >= 0, and an exact linear solve."""
    down, across = differences(*GRID.shape)
    size = matrix.shape[1]
    normal = matrix.T @ (weights[:, None] * matrix)
    solve = np.linalg.inv(normal + penalty * (down.T @ down + across.T @ across + np.eye(size)))
    right = matrix.T @ (weights * target)
    u, a = np.zeros((2, size)), np.zeros((2, size))
    v, b = np.zeros(size), np.zeros(size)
    for _ in range(rounds):
        pulled = down.T @ (u[0] - a[0]) + across.T @ (u[1] - a[1]) + v - b
        x = solve @ (right + penalty * pulled)
        slopes = np.stack([down @ x, across @ x])
        length = np.maximum(np.hypot(*(slopes + a)), 1e-300)
        u = (slopes + a) * np.maximum(1 - strength / (penalty * length), 0)
        v = np.maximum(x + b, 0)
        a, b = a + slopes - u, b + x - v
    return v


@pytest.mark.parametrize("weighted", [False, True])
def test_it_finds_what_admm_finds(weighted):
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram()
    weights = some_weights() if weighted else None
    found = tv.total_variation(sinogram, projector, STRENGTH, 4000, weights=weights)
    norm = 1.01 * tv.operator_norm(projector)
    matrix = dense(projector) / norm
    target = sinogram.numpy().ravel() / MU_WATER_PER_MM / norm
    w = np.ones_like(target) if weights is None else weights.numpy().ravel()
    other = by_admm(matrix, target, w, STRENGTH)
    mine = found.image.numpy().ravel()
    assert (mine == 0).any() and mine.max() > 0.5  # the bound is active, the image is not empty
    np.testing.assert_allclose(mine, other, atol=1e-5)
    values = [objective(matrix, target, w, STRENGTH, x) for x in (mine, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-8)
    assert float(found.objective) == pytest.approx(values[0], rel=1e-9)
    assert 0 <= float(found.gap) < 1e-7 * values[0]
    # the gap bounds the distance to the minimum, which ADMM's image is not below
    assert values[1] >= values[0] - float(found.gap)


def test_the_gap_shrinks_and_never_lies():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram()
    found = [tv.total_variation(sinogram, projector, STRENGTH, n) for n in (10, 40, 160, 640, 2560)]
    gaps = [float(f.gap) for f in found]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] > 0
    assert gaps[-1] < 1e-3 * gaps[0]
    least = float(found[-1].objective) - gaps[-1]
    for f in found:
        assert float(f.objective) - float(f.gap) <= float(found[-1].objective)
        assert float(f.objective) >= least


def test_without_strength_it_is_least_squares_within_bounds():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram()
    found = tv.total_variation(sinogram, projector, 0.0, 10_000, weights=some_weights())
    root = np.sqrt(some_weights().numpy().ravel())
    matrix, target = dense(projector), sinogram.numpy().ravel() / MU_WATER_PER_MM
    exact = lsq_linear(root[:, None] * matrix, root * target, (0, tv.DENSEST))
    mine = np.sum((root * (matrix @ found.image.numpy().ravel() - target)) ** 2)
    assert mine == pytest.approx(2 * exact.cost, rel=1e-4)


def test_negative_attenuation_is_allowed_when_asked_for():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram()
    free = tv.total_variation(sinogram, projector, 0.0, 1000, nonnegative=False)
    bound = tv.total_variation(sinogram, projector, 0.0, 1000)
    assert float(free.image.min()) < -0.01 <= float(bound.image.min()) == 0.0
    assert float(free.objective) < float(bound.objective)


def test_a_strong_penalty_leaves_one_value():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram()
    image = tv.total_variation(sinogram, projector, 100.0, 5000).image.numpy()
    rays = dense(projector) @ np.ones(math.prod(GRID.shape))
    level = rays @ sinogram.numpy().ravel() / MU_WATER_PER_MM / (rays @ rays)
    np.testing.assert_allclose(image, level, rtol=1e-3)


def test_it_stops_when_every_image_is_near_enough():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram(sites=3)
    found = tv.total_variation(sinogram, projector, STRENGTH, 20_000, tolerance=0.01)
    assert found.iterations < 20_000 and found.iterations % 10 == 0
    assert bool((found.gap <= 0.01 * found.objective).all())
    earlier = tv.total_variation(sinogram, projector, STRENGTH, found.iterations - 10)
    assert not bool((earlier.gap <= 0.01 * earlier.objective).all())


def test_a_batch_is_its_images_one_by_one():
    projector, sinogram = Projector(GEOMETRY, GRID), noisy_sinogram(sites=3)
    together = tv.total_variation(sinogram, projector, STRENGTH, 50)
    assert together.image.shape == (3, 1, *GRID.shape) and together.gap.shape == (3, 1)
    for k in range(3):
        alone = tv.total_variation(sinogram[k : k + 1], projector, STRENGTH, 50)
        torch.testing.assert_close(together.image[k : k + 1], alone.image)


def test_the_norm_is_the_largest_singular_value():
    for geometry in (
        GEOMETRY,
        FanGeometry(equispaced_angles(9, math.pi / 2), 11, 20.0, 300.0, 600.0, "curved"),
    ):
        projector = Projector(geometry, GRID)
        exact = np.linalg.norm(dense(projector), 2)
        assert tv.operator_norm(projector) == pytest.approx(exact, rel=2e-3)
        assert 1.01 * tv.operator_norm(projector) > exact


def test_the_transposed_gradient_is_the_transpose():
    draw = torch.Generator().manual_seed(3)
    image = torch.randn(2, 1, 6, 5, generator=draw, dtype=torch.float64)
    slopes = torch.randn(2, 2, 1, 6, 5, generator=draw, dtype=torch.float64)
    slopes[0, ..., -1, :] = slopes[1, ..., -1] = 0.0
    left = (tv._gradient(image) * slopes).sum()
    right = (image * tv._gradient_transposed(slopes)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_it_beats_fbp_with_few_views_in_single_precision():
    from fedm2ct.physics.analytic import fbp

    grid = ImageGrid(48, 48, 4.0)
    geometry = FanGeometry(equispaced_angles(16), 64, 8.0, 400.0, 800.0)
    sinogram = ellipse_sinogram(shepp_logan(90.0), geometry).float()
    truth = ellipse_image(shepp_logan(90.0), grid, 8).float()
    start = fbp(sinogram, geometry, grid)
    found = tv.total_variation(sinogram, Projector(geometry, grid), 3e-3, 100, initial=start)
    error = (found.image - truth).square().mean().sqrt()
    assert found.image.dtype == torch.float32
    assert float(error) < 0.4 * float((start - truth).square().mean().sqrt())


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": -1.0},
        {"iterations": -1},
        {"tolerance": -0.1},
        {"balance": 0.0},
        {"weights": -torch.ones(GEOMETRY.shape)},
    ],
)
def test_refuses_negative_numbers(wrong):
    arguments = {"strength": 1.0, "iterations": 1, **wrong}
    with pytest.raises(ValueError, match=r"must (not be negative|be positive)"):
        tv.total_variation(noisy_sinogram(), Projector(GEOMETRY, GRID), **arguments)
