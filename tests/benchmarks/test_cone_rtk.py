"""An independent witness: RTK's projector, where it is installed (``pip install itk-rtk``)."""

import warnings
from dataclasses import replace

import pytest
import torch

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid, helical
from fedm2ct.physics.cone_operators import ConeProjector
from fedm2ct.physics.ellipsoids import ball, ellipsoid_projections
from fedm2ct.physics.fdk import fdk
from fedm2ct.physics.geometry import equispaced_angles
from tests.properties.helpers import random, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as errors they crash ITK's bindings
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "RTK"):
        pytest.skip("itk is here without RTK", allow_module_level=True)
    from cone_rtk import Rtk

pytestmark = pytest.mark.filterwarnings("ignore")

GRID = VolumeGrid(24, 32, 40, 4.0, 3.0)
FLAT = ConeGeometry(equispaced_angles(24), 32, 60, 4.0, 6.0, 500.0, 1000.0)
SCANS = {
    "flat": FLAT,
    "offset": replace(FLAT, column_offset_mm=7.0, row_offset_mm=-5.0),
    "curved": replace(FLAT, detector="curved", column_offset_mm=7.0),
    "flying along z": replace(FLAT, source_axial_shift_mm=(2.0, -2.0) * 12),
    "helix": helical(FLAT, 1.5, 0.6),
}
EVERY_SCAN = pytest.mark.parametrize("geometry", SCANS.values(), ids=SCANS.keys())


def computed(rtk, name, values):
    run = getattr(rtk, name)(values)
    run.Update()
    return rtk.output(name, run)


@EVERY_SCAN
def test_projectors_agree(geometry):
    """But for the volume's border, where ours fades to air over a voxel."""
    volume = torch.zeros(GRID.shape)
    volume[2:-2, 2:-2, 2:-2] = random((20, 28, 36), 1, torch.float32)
    theirs = computed(Rtk(geometry, GRID), "project", volume)
    assert relative_error(ConeProjector(geometry, GRID)(volume), theirs) < 1e-5


@EVERY_SCAN
def test_adjoints_agree(geometry):
    rays = random(geometry.shape, 2, torch.float32)
    theirs = computed(Rtk(geometry, GRID), "adjoint", rays)
    inside = (slice(2, -2),) * 3
    ours = ConeProjector(geometry, GRID).adjoint(rays)
    assert relative_error(ours[inside], theirs[inside]) < 1e-5


def test_reconstructions_agree():
    """Where every view sees the voxels whole: at the detector's edge ours fades over a bin."""
    geometry = replace(FLAT, angles_rad=equispaced_angles(90), n_columns=120, column_pitch_mm=4.0)
    projections = ellipsoid_projections([ball(40.0, 5.0, -8.0, 2.0)], geometry).float()
    theirs = computed(Rtk(geometry, GRID), "fdk", projections)
    assert relative_error(fdk(projections, geometry, GRID)[4:-4], theirs[4:-4]) < 1e-4
