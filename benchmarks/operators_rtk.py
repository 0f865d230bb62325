"""RTK, the Reconstruction Toolkit; see `operators_library`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from operators_cases import Setup
from operators_library import Array, Call, Library, batch_of, slices_of
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry
from fedm2ct.units import MU_WATER_PER_MM


class Rtk(Library):
    """RTK's CPU filters: the fan is the middle row of a cone beam, with a detector of one row.

    Joseph's projector needs three slices (the rays run through the middle one, the others get a
    weight of zero), back-projection two equal detector rows. One image at a time.
    """

    title = "RTK"
    packages = ("itk-rtk", "itk")
    operations = ("forward", "adjoint", "backproject", "fbp")
    threads = "process"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import itk
        from itk import RTK

        self.itk, self.rtk, geometry = itk, RTK, setup.geometry
        assert isinstance(geometry, FanGeometry)
        self.type, self.alive = itk.Image[itk.F, 3], []
        self.geometry = RTK.ThreeDCircularProjectionGeometry.New()
        for angle in geometry.angles:  # RTK's source turns from its z axis, which is our -y
            self.geometry.AddProjectionInRadians(
                geometry.source_to_isocentre_mm, geometry.source_to_detector_mm, angle + np.pi / 2
            )

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """See `Library`; ITK's pool of threads is made once."""
        return {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}

    def set_threads(self, threads: int) -> None:
        """See `Library`."""
        super().set_threads(threads)
        self.itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)

    def _given(self, array: Array, spacing_mm: float, stacked: bool) -> Any:
        """Return a view of an array as an ITK image; its third axis may count views."""
        image = self.itk.image_view_from_array(array)
        image.SetSpacing([spacing_mm] * 3)
        image.SetOrigin(_origin(array.shape[::-1], spacing_mm, stacked))
        return image

    def _zeros(self, size: tuple[int, ...], spacing_mm: float, stacked: bool) -> Any:
        """Return what makes an image of zeros whenever a filter has used up the last one."""
        source = self.rtk.ConstantImageSource[self.type].New()
        source.SetSize(size)
        source.SetSpacing([spacing_mm] * 3)
        source.SetOrigin(_origin(size, spacing_mm, stacked))
        self.alive.append(source)  # an image does not keep the filter that makes it
        return source.GetOutput()

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        filters = [self._filter(operation, part) for part in slices_of(x)]

        def run() -> None:
            for each in filters:
                each.Modified()
                each.Update()

        def read() -> Tensor:
            scale = 1 / MU_WATER_PER_MM if operation == "fbp" else 1.0
            found = [self.itk.array_from_image(f.GetOutput()) for f in filters]
            return batch_of([f[:, f.shape[1] // 2] * scale for f in found]).float()

        return Call(run, read)

    def _filter(self, operation: str, part: Array) -> Any:
        rtk, pair = self.rtk, (self.type, self.type)
        pixel, pitch = self.setup.grid.pixel_mm, self.setup.geometry.detector_pitch_mm
        (rows, columns), (views, bins) = self.setup.grid.shape, self.setup.geometry.shape
        if operation == "forward":
            made = rtk.JosephForwardProjectionImageFilter[pair].New()
            empty = self._zeros((bins, 1, views), pitch, True)
            given = self._given(_repeated(part, 3), pixel, False)
        elif operation == "adjoint":
            made = rtk.JosephBackProjectionImageFilter[pair].New()
            empty = self._zeros((columns, 3, rows), pixel, False)
            given = self._given(part[:, None], pitch, True)
        else:
            kind = rtk.FDKConeBeamReconstructionFilter[self.type]
            made = (
                rtk.FDKBackProjectionImageFilter[pair] if operation == "backproject" else kind
            ).New()
            empty = self._zeros((columns, 1, rows), pixel, False)
            given = self._given(_repeated(part, 2), pitch, True)
        made.SetInput(0, empty)
        made.SetInput(1, given)
        made.SetGeometry(self.geometry)
        self.alive.append((empty, given, part))  # filters and views do not own what they are given
        return made


def _repeated(part: Array, times: int) -> Array:
    return np.ascontiguousarray(np.repeat(part[:, None], times, axis=1))


def _origin(size: Sequence[int], spacing_mm: float, stacked: bool) -> list[float]:
    """Return the first sample's place of an image that is centred on the isocentre."""
    centred = [-(n - 1) / 2 * spacing_mm for n in size]
    return [*centred[:2], 0.0] if stacked else centred
