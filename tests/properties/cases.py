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

GRID = ImageGrid(14, 17, 2.3)
IRREGULAR = (0.1, 2.9, 0.1, 4.4, -1.3, math.pi / 4, math.pi / 2, 7.0)
GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelGeometry(equispaced_angles(8, math.pi), 21, 2.0),
    "parallel-shifted": ParallelGeometry(IRREGULAR, 11, 3.0, detector_offset_mm=5.3),
    "fan-flat": FanGeometry(equispaced_angles(8), 19, 4.1, 60.0, 110.0),
    "fan-flat-shifted": FanGeometry(IRREGULAR, 15, 3.3, 60.0, 110.0, "flat", -7.7),
    "fan-curved": FanGeometry(equispaced_angles(8, 0.4), 19, 4.1, 60.0, 110.0, "curved"),
    "fan-curved-shifted": FanGeometry(IRREGULAR, 15, 3.3, 60.0, 110.0, "curved", 7.7),
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
            weighted = WeightedBackprojector(geometry, GRID, backend)
            image, sinogram = GRID.shape, geometry.shape
            label = f"{name}-{backend}"
            yield pytest.param(Case(projector, image, sinogram), id=f"project-{label}")
            yield pytest.param(Case(weighted, sinogram, image), id=f"backproject-{label}")
        cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        marks = [pytest.mark.cuda, cuda]
        for operator in (Projector(geometry, GRID), WeightedBackprojector(geometry, GRID)):
            shapes = (GRID.shape, geometry.shape)
            shapes = shapes if isinstance(operator, Projector) else shapes[::-1]
            label = f"{type(operator).__name__}-{name}-cuda"
            yield pytest.param(Case(operator, *shapes, device="cuda"), id=label, marks=marks)


OPERATORS = list(_cases())
EVERY_OPERATOR = pytest.mark.parametrize("case", OPERATORS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
