"""RTK's cone-beam operators on our geometries and tensors: ``pip install itk-rtk``.

RTK turns about its y axis, with the source of angle 0 on its z axis: its ``(x, y, z)`` are our
``(y, z, x)``. So a volume of ours, ``(slice, row, column)``, is RTK's ``[z, y, x]`` as
``(column, slice, row)`` with the rows upside down; projections are the same in both.
"""

import itk
import numpy as np
import torch
from itk import RTK as rtk
from torch import Tensor

from fedm2ct.physics.cone_geometry import ConeGeometry, VolumeGrid
from fedm2ct.units import MU_WATER_PER_MM

IMAGE = itk.Image[itk.F, 3]
VERSION = itk.Version.GetITKVersion()


def set_threads(count: int) -> None:
    """Let RTK use so many threads."""
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(count)


class Rtk:
    """The filters of one scan and one grid, made ready: ``Update`` computes, once."""

    def __init__(self, geometry: ConeGeometry, grid: VolumeGrid) -> None:
        if any(geometry.source_angle_shift_rad) or any(geometry.source_radial_shift_mm):
            raise ValueError("Rtk: a focal spot that flies in the plane is not translated")
        self.geometry, self.grid = geometry, grid
        self.scan = rtk.ThreeDCircularProjectionGeometry.New()
        if geometry.detector == "curved":
            self.scan.SetRadiusCylindricalDetector(geometry.source_to_detector_mm)
        distances = geometry.source_to_isocentre_mm, geometry.source_to_detector_mm
        heights = zip(geometry.detector_z_mm, geometry.focus_z_mm, strict=True)
        for angle, (detector_z, focus_z) in zip(geometry.angles, heights, strict=True):
            degrees = float(np.degrees(angle))
            self.scan.AddProjection(
                *distances, degrees, 0.0, float(detector_z), 0.0, 0.0, 0.0, float(focus_z)
            )

    def volume_in(self, volume: Tensor) -> "itk.Image":
        """Return RTK's image of a volume."""
        grid = self.grid
        array = volume.permute(2, 0, 1).flip(2).float().numpy()
        spacing = grid.pixel_mm, grid.slice_mm, grid.pixel_mm
        return _image(array, spacing, (0.0, grid.centre_z_mm, 0.0))

    def volume_out(self, image: "itk.Image") -> Tensor:
        """Return a volume from RTK's image."""
        array = torch.from_numpy(itk.array_from_image(image))
        return array.flip(2).permute(1, 2, 0).contiguous()

    def projections_in(self, projections: Tensor) -> "itk.Image":
        """Return RTK's image of projections."""
        g = self.geometry
        spacing = g.column_pitch_mm, g.row_pitch_mm, 1.0
        centre = g.column_offset_mm, g.row_offset_mm, 0.0
        return _image(projections.float().numpy(), spacing, centre)

    def project(self, volume: Tensor) -> "itk.ProcessObject":
        """Joseph's projector."""
        run = rtk.JosephForwardProjectionImageFilter[IMAGE, IMAGE].New()
        run.SetInput(0, self.projections_in(torch.zeros(self.geometry.shape)))
        run.SetInput(1, self.volume_in(volume))
        run.SetGeometry(self.scan)
        return run

    def adjoint(self, projections: Tensor) -> "itk.ProcessObject":
        """Its transpose."""
        run = rtk.JosephBackProjectionImageFilter[IMAGE, IMAGE].New()
        run.SetInput(0, self.volume_in(torch.zeros(self.grid.shape)))
        run.SetInput(1, self.projections_in(projections))
        run.SetGeometry(self.scan)
        return run

    def fdk(self, projections: Tensor) -> "itk.ProcessObject":
        """Feldkamp, Davis and Kress, in 1/mm."""
        run = rtk.FDKConeBeamReconstructionFilter[IMAGE].New()
        run.SetInput(0, self.volume_in(torch.zeros(self.grid.shape)))
        run.SetInput(1, self.projections_in(projections))
        run.SetGeometry(self.scan)
        return run

    def output(self, name: str, run: "itk.ProcessObject") -> Tensor:
        """Return what a filter of this name has computed, reconstructions with water 1."""
        if name == "project":
            return torch.from_numpy(itk.array_from_image(run.GetOutput()))
        volume = self.volume_out(run.GetOutput())
        return volume / MU_WATER_PER_MM if name == "fdk" else volume


def _image(array: np.ndarray, spacing: tuple[float, ...], centre: tuple[float, ...]) -> "itk.Image":
    image = itk.image_from_array(np.ascontiguousarray(array))
    image.SetSpacing(spacing)
    sides = zip(array.shape[::-1], spacing, centre, strict=True)
    image.SetOrigin([c - (n - 1) / 2 * s for n, s, c in sides])
    return image
