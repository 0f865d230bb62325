"""The one list of operators: add an entry and it inherits every property test."""

import math
from dataclasses import dataclass

import pytest
import torch

from fedm2ct.physics.geometry import (
    FanGeometry,
    Geometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.operators import LinearOperator, Projector, WeightedBackprojector
from fedm2ct.physics.projectors import FOOTPRINTS
from tests.properties.cone_cases import cone_operators

GRID = ImageGrid(14, 17, 2.3)
SQUARE = ImageGrid(15, 15, 2.3)
IRREGULAR = (0.1, 2.9, 0.1, 4.4, -1.3, math.pi / 4, math.pi / 2, 7.0)
FLYING = (0.03, -0.03) * 4
GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelGeometry(equispaced_angles(8, math.pi), 21, 2.0),
    "parallel-shifted": ParallelGeometry(IRREGULAR, 11, 3.0, detector_offset_mm=5.3),
    "fan-flat": FanGeometry(equispaced_angles(8), 19, 4.1, 60.0, 110.0),
    "fan-flat-shifted": FanGeometry(IRREGULAR, 15, 3.3, 60.0, 110.0, "flat", -7.7),
    "fan-curved": FanGeometry(equispaced_angles(8, 0.4), 19, 4.1, 60.0, 110.0, "curved"),
    "fan-curved-shifted": FanGeometry(IRREGULAR, 15, 3.3, 60.0, 110.0, "curved", 7.7),
    "fan-flat-flying": FanGeometry(
        equispaced_angles(8), 19, 4.1, 60.0, 110.0, "flat", 0.0, FLYING, (2.0, 0.0) * 4
    ),
    "fan-curved-flying": FanGeometry(
        equispaced_angles(8), 19, 4.1, 60.0, 110.0, "curved", 1.025, FLYING, (2.0, 0.0) * 4
    ),
}
# on a square grid views are shared out to lanes: all of them, some of them, halves of them, none
SYMMETRIC: dict[str, Geometry] = {
    "eight": FanGeometry(equispaced_angles(16), 20, 4.1, 60.0, 110.0),
    "eight-incomplete": FanGeometry(equispaced_angles(11, 4.0), 19, 4.1, 60.0, 110.0, "curved"),
    "quarter-bin": FanGeometry(
        equispaced_angles(12, start_rad=0.2), 19, 4.1, 60.0, 110.0, "flat", 1.0
    ),
    "mirrored": FanGeometry(equispaced_angles(9), 19, 4.1, 60.0, 110.0),
    "flying": FanGeometry(
        equispaced_angles(16), 19, 4.1, 60.0, 110.0, "curved", 0.0, FLYING * 2, (2.0, 0.0) * 8
    ),
    "halved-odd": ParallelGeometry(equispaced_angles(10, math.pi), 21, 2.0),
    "halved-even": ParallelGeometry(equispaced_angles(12, math.pi, 0.1), 20, 2.0),
    "none": ParallelGeometry((0.1, 0.25, 1.9), 21, 2.0, 0.7),
}
BACKENDS = ("cpu", "torch")


@dataclass(frozen=True)
class Case:
    """An operator, the shapes it maps between, and the device it is tested on."""

    operator: LinearOperator
    domain: tuple[int, ...]
    codomain: tuple[int, ...]
    device: str = "cpu"


def _cases():
    for name, geometry in GEOMETRIES.items():
        for backend in BACKENDS:
            projector = Projector(geometry, GRID, backend)
            driven = Projector(geometry, GRID, backend, "distance-driven")
            weighted = WeightedBackprojector(geometry, GRID, backend)
            image, sinogram = GRID.shape, geometry.shape
            label = f"{name}-{backend}"
            yield pytest.param(Case(projector, image, sinogram), id=f"project-{label}")
            yield pytest.param(Case(driven, image, sinogram), id=f"distance-driven-{label}")
            yield pytest.param(Case(weighted, sinogram, image), id=f"backproject-{label}")
        for operator in (Projector(geometry, GRID), WeightedBackprojector(geometry, GRID)):
            shapes = (GRID.shape, geometry.shape)
            shapes = shapes if isinstance(operator, Projector) else shapes[::-1]
            label = f"{type(operator).__name__}-{name}-cuda"
            yield pytest.param(
                Case(operator, *shapes, device="cuda"), id=label, marks=pytest.mark.cuda
            )

    for name, geometry in SYMMETRIC.items():
        image, sinogram = SQUARE.shape, geometry.shape
        for footprint in FOOTPRINTS:
            projector = Projector(geometry, SQUARE, "cpu", footprint)
            yield pytest.param(Case(projector, image, sinogram), id=f"{footprint}-square-{name}")
        weighted = WeightedBackprojector(geometry, SQUARE, "cpu")
        yield pytest.param(Case(weighted, sinogram, image), id=f"backproject-square-{name}")


def _cone_cases():
    for label, operator, *shapes in cone_operators():
        yield pytest.param(Case(operator, *shapes), id=label)


OPERATORS = [*_cases(), *_cone_cases()]
EVERY_OPERATOR = pytest.mark.parametrize("case", OPERATORS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
LAYOUTS = {name: (geometry, GRID) for name, geometry in GEOMETRIES.items()} | {
    f"square-{name}": (geometry, SQUARE) for name, geometry in SYMMETRIC.items()
}
EVERY_LAYOUT = pytest.mark.parametrize(("geometry", "grid"), LAYOUTS.values(), ids=LAYOUTS.keys())
EVERY_FOOTPRINT = pytest.mark.parametrize("footprint", FOOTPRINTS)
