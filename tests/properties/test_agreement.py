"""Backends agree with each other, with exact integrals and with ASTRA where it is installed."""

import math
import warnings

import numpy as np
import pytest
import torch

from fedm2ct.physics.geometry import (
    FanGeometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.operators import Projector, WeightedBackprojector
from fedm2ct.physics.phantoms import Ellipse, ellipse_image, ellipse_sinogram
from fedm2ct.units import MU_WATER_PER_MM
from tests.properties.cases import BACKENDS, EVERY_DTYPE, EVERY_GEOMETRY, GRID
from tests.properties.helpers import TOLERANCE, random, relative_error

PHANTOM = [
    Ellipse(12.0, -20.0, 60.0, 40.0, 0.4, 1.0),
    Ellipse(-30.0, 15.0, 18.0, 30.0, -0.7, 0.5),
]
LARGE = {
    "parallel": ParallelGeometry(equispaced_angles(12, math.pi, 0.05), 120, 2.0),
    "fan-flat": FanGeometry(equispaced_angles(12, start_rad=0.05), 120, 4.0, 400.0, 800.0),
    "fan-curved": FanGeometry(
        equispaced_angles(12, start_rad=0.05), 120, 4.0, 400.0, 800.0, "curved", 10.0
    ),
}
EVERY_LARGE = pytest.mark.parametrize("geometry", LARGE.values(), ids=LARGE.keys())


@EVERY_DTYPE
@EVERY_GEOMETRY
@pytest.mark.parametrize("operator", [Projector, WeightedBackprojector])
def test_backends_agree(operator, geometry, dtype):
    cpu, reference = (operator(geometry, GRID, backend) for backend in BACKENDS)
    shapes = (GRID.shape, geometry.shape)
    domain, codomain = shapes if operator is Projector else shapes[::-1]
    x, y = random((3, *domain), 1, dtype), random((3, *codomain), 2, dtype)
    assert relative_error(cpu(x), reference(x)) < TOLERANCE[dtype]
    assert relative_error(cpu.adjoint(y), reference.adjoint(y)) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@EVERY_LARGE
def test_projector_agrees_with_exact_ellipse_integrals(geometry, backend):
    exact = ellipse_sinogram(PHANTOM, geometry) / MU_WATER_PER_MM
    errors = []
    for size in (64, 128):
        grid = ImageGrid(size, size, 200.0 / size)
        projected = Projector(geometry, grid, backend)(ellipse_image(PHANTOM, grid, 8))
        errors.append(relative_error(projected, exact))
    assert errors[1] < 0.01
    assert errors[1] < 0.6 * errors[0]  # and the error falls with the pixel


@EVERY_LARGE
def test_a_spot_is_projected_where_the_conventions_say(geometry):
    """A spot at the top right: x > 0, y > 0, row 0 at the top."""
    grid = ImageGrid(100, 100, 2.0)
    image = torch.zeros(grid.shape, dtype=torch.float64)
    row, column = 20, 65
    image[row - 3 : row + 4, column - 3 : column + 4] = 1.0
    x, y = (column - 49.5) * 2.0, (49.5 - row) * 2.0
    sinogram = Projector(geometry, grid)(image)
    centroid = (sinogram.numpy() @ geometry.bins_mm) / sinogram.sum(1).numpy()
    along = -x * np.sin(geometry.angles) + y * np.cos(geometry.angles)
    if isinstance(geometry, FanGeometry):
        depth = 400.0 - x * np.cos(geometry.angles) - y * np.sin(geometry.angles)
        tangent = along / depth
        along = 800.0 * (np.arctan(tangent) if geometry.detector == "curved" else tangent)
    assert np.abs(centroid - along).max() < 0.1 * geometry.detector_pitch_mm


@EVERY_GEOMETRY
@pytest.mark.parametrize("operator", [Projector, WeightedBackprojector])
def test_result_does_not_depend_on_the_number_of_threads(operator, geometry):
    apply = operator(geometry, GRID)
    shapes = (GRID.shape, geometry.shape)
    domain, codomain = shapes if operator is Projector else shapes[::-1]
    x = random((2, *domain), 3, torch.float32)
    y = random((2, *codomain), 4, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append((apply(x), apply.adjoint(y)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_reference_backend_works_in_chunks(monkeypatch):
    from fedm2ct.physics.projectors import reference

    geometry = FanGeometry(equispaced_angles(7), 19, 4.1, 60.0, 110.0)
    x, y = random((2, *GRID.shape), 5), random((2, *geometry.shape), 6)
    operators = [op(geometry, GRID, "torch") for op in (Projector, WeightedBackprojector)]
    whole = [operators[0](x), operators[0].H(y), operators[1](y), operators[1].H(x)]
    monkeypatch.setattr(reference, "_MAX_ELEMENTS", 700)
    parts = [operators[0](x), operators[0].H(y), operators[1](y), operators[1].H(x)]
    for a, b in zip(whole, parts, strict=True):
        assert relative_error(b, a) < 1e-12


def test_the_source_must_lie_outside_the_image():
    geometry = FanGeometry(equispaced_angles(8), 19, 4.1, 20.0, 110.0)
    for operator in (Projector, WeightedBackprojector):
        with pytest.raises(ValueError, match="use a smaller grid"):
            operator(geometry, GRID)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be one of"):
        Projector(ParallelGeometry((0.0,), 5, 1.0), GRID, backend="cdua")


@EVERY_LARGE
def test_projector_agrees_with_astra(geometry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        astra = pytest.importorskip("astra", exc_type=ImportError)  # or its CUDA is missing
    if isinstance(geometry, FanGeometry) and geometry.detector == "curved":
        pytest.skip("ASTRA has no curved detector")
    grid = ImageGrid(64, 64, 3.125)
    image = ellipse_image(PHANTOM, grid)[0, 0]
    half = 32 * grid.pixel_mm
    volume = astra.create_vol_geom(64, 64, -half, half, -half, half)
    n, e = _axes(geometry.angles)
    pitch, bins = geometry.detector_pitch_mm, geometry.n_bins
    if isinstance(geometry, FanGeometry):
        distance = geometry.source_to_isocentre_mm - geometry.source_to_detector_mm
        vectors = np.hstack([geometry.source_to_isocentre_mm * n, distance * n, pitch * e])
        scan, kind = astra.create_proj_geom("fanflat_vec", bins, vectors), "line_fanflat"
    else:
        vectors = np.hstack([-n, 0 * n, pitch * e])
        scan, kind = astra.create_proj_geom("parallel_vec", bins, vectors), "linear"
    projector = astra.create_projector(kind, scan, volume)
    identifier, expected = astra.create_sino(image.float().numpy(), projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    ours = Projector(geometry, grid)(image)
    tolerance = 1e-5 if kind == "linear" else 0.02  # fan: ASTRA's CPU has exact lengths instead
    assert relative_error(ours, torch.from_numpy(expected)) < tolerance


def _axes(angles):
    n = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return n, np.stack([-n[:, 1], n[:, 0]], axis=1)
