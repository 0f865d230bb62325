"""Backends agree with each other, with exact integrals and with ASTRA where it is installed."""

import math
import warnings
from dataclasses import replace

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
from fedm2ct.physics.projectors import FOOTPRINTS
from fedm2ct.units import MU_WATER_PER_MM
from tests.properties.cases import (
    BACKENDS,
    EVERY_DTYPE,
    EVERY_FOOTPRINT,
    EVERY_GEOMETRY,
    EVERY_LAYOUT,
    GRID,
)
from tests.properties.helpers import TOLERANCE, random, relative_error

PHANTOM = [
    Ellipse(12.0, -20.0, 60.0, 40.0, 0.4, 1.0),
    Ellipse(-30.0, 15.0, 18.0, 30.0, -0.7, 0.5),
]
FLAT = FanGeometry(equispaced_angles(12, start_rad=0.05), 120, 4.0, 400.0, 800.0)
FLYING = {"source_angle_shift_rad": (0.02, -0.02) * 6, "source_radial_shift_mm": (9.0, -5.0) * 6}
LARGE = {
    "parallel": ParallelGeometry(equispaced_angles(12, math.pi, 0.05), 120, 2.0),
    "fan-flat": FLAT,
    "fan-curved": FanGeometry(
        equispaced_angles(12, start_rad=0.05), 120, 4.0, 400.0, 800.0, "curved", 10.0
    ),
    "fan-flat-flying": replace(FLAT, **FLYING),
    "fan-curved-flying": replace(FLAT, detector="curved", **FLYING),
}
EVERY_LARGE = pytest.mark.parametrize("geometry", LARGE.values(), ids=LARGE.keys())


@EVERY_DTYPE
@EVERY_LAYOUT
@pytest.mark.parametrize("batch", [1, 3, 19])
def test_backends_agree(geometry, grid, dtype, batch):
    x, y = random((batch, *grid.shape), 1, dtype), random((batch, *geometry.shape), 2, dtype)
    weights = random(geometry.shape, 3, dtype)
    for footprint in FOOTPRINTS:
        cpu, reference = (Projector(geometry, grid, b, footprint) for b in BACKENDS)
        assert relative_error(cpu(x), reference(x)) < TOLERANCE[dtype]
        assert relative_error(cpu.adjoint(y), reference.adjoint(y)) < TOLERANCE[dtype]
    cpu, reference = (WeightedBackprojector(geometry, grid, b) for b in BACKENDS)
    assert relative_error(cpu(y, weights), reference(y, weights)) < TOLERANCE[dtype]
    assert relative_error(cpu.adjoint(x), reference.adjoint(x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@EVERY_FOOTPRINT
@EVERY_LARGE
def test_projector_agrees_with_exact_ellipse_integrals(geometry, backend, footprint):
    exact = ellipse_sinogram(PHANTOM, geometry) / MU_WATER_PER_MM
    if footprint == "distance-driven":  # a bin's mean, by its finer parts
        finer = replace(
            geometry,
            n_bins=16 * geometry.n_bins,
            detector_pitch_mm=geometry.detector_pitch_mm / 16,
        )
        fine = ellipse_sinogram(PHANTOM, finer) / MU_WATER_PER_MM
        exact = fine.reshape(*exact.shape, 16).mean(-1)
    errors = []
    for size in (64, 128):
        grid = ImageGrid(size, size, 200.0 / size)
        projector = Projector(geometry, grid, backend, footprint)
        errors.append(relative_error(projector(ellipse_image(PHANTOM, grid, 8)), exact))
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
        along = _seen_at(geometry, x, y)
    assert np.abs(centroid - along).max() < 0.1 * geometry.detector_pitch_mm


@EVERY_LARGE
def test_back_projection_puts_a_spot_where_it_was(geometry):
    """Each view alone: the pixel-driven positions invert those of exact line integrals."""
    spot, grid = [Ellipse(30.0, 20.0, 3.0, 3.0, 0.0, 1.0)], ImageGrid(121, 121, 1.0)
    narrow = replace(geometry, n_bins=1200, detector_pitch_mm=geometry.detector_pitch_mm / 10)
    sinogram, back_projector = ellipse_sinogram(spot, narrow), WeightedBackprojector(narrow, grid)
    for view in range(geometry.n_views):
        single = torch.zeros(2, 1, *narrow.shape, dtype=torch.float64)
        single[0, 0, view], single[1, 0, view] = sinogram[0, 0, view], 1.0
        image, weight = back_projector(single)[:, 0]
        relative = image / weight.clamp(min=1e-9)
        assert relative[60 - 20, 60 + 30] > 0.99 * relative.max()  # the chord through its middle


@EVERY_FOOTPRINT
def test_bins_wider_than_pixels_see_every_pixel(footprint):
    """Joseph's rays pass some pixels by; distance-driven footprints leave none out."""
    geometry = ParallelGeometry((math.pi / 2,), 8, 8.0)
    sinogram = torch.ones(geometry.shape, dtype=torch.float64)
    seen = Projector(geometry, ImageGrid(64, 64, 1.0), footprint=footprint).adjoint(sinogram)
    assert bool((seen > 0).all()) == (footprint == "distance-driven")
    assert footprint == "joseph" or torch.allclose(seen, seen[0, 0].expand_as(seen))


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
    if isinstance(geometry, FanGeometry) and geometry.has_source_shift:
        pytest.skip("the flat detector's source shift is checked against exact integrals")
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


def _seen_at(geometry, x, y):
    """Detector coordinate of a point: from the source through it to the detector."""
    n, e = _axes(geometry.angles)
    along, across = geometry.sources_mm
    source = along[:, None] * n + across[:, None] * e
    nominal = geometry.source_to_isocentre_mm * n
    step = np.array([x, y]) - source
    if geometry.detector == "flat":
        behind = geometry.source_to_detector_mm - geometry.source_to_isocentre_mm
        reach = (along + behind) / -np.sum(step * n, axis=1)
        return np.sum((source + reach[:, None] * step) * e, axis=1)
    # |source + t step - nominal| = SDD
    start = source - nominal
    a, b = np.sum(step**2, axis=1), np.sum(start * step, axis=1)
    c = np.sum(start**2, axis=1) - geometry.source_to_detector_mm**2
    point = start + ((-b + np.sqrt(b**2 - a * c)) / a)[:, None] * step
    angle = np.arctan2(np.sum(point * e, axis=1), -np.sum(point * n, axis=1))
    return geometry.source_to_detector_mm * angle
