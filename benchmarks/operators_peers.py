"""Other people's libraries, one small class each; see `operators_library`."""

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from operators_cases import Setup
from operators_library import (
    Call,
    Library,
    Ours,
    OursDistanceDriven,
    OursWithoutSymmetry,
    SparseMatrix,
    kept,
)
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, ParallelGeometry
from fedm2ct.units import MU_WATER_PER_MM

Array = NDArray[np.float32]


def _slices(x: Tensor) -> list[Array]:
    """Return the batch as contiguous arrays."""
    return [np.ascontiguousarray(part[0].numpy()) for part in x]


def _batch(slices: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(slices)[:, None])


class TorchTomo(Library):
    """torchtomo's PyTorch path: its image is clipped to the inscribed disc, its y points down."""

    title = "torchtomo"
    packages = ("torchtomo",)
    operations = ("forward", "adjoint", "backproject", "fbp")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from torchtomo import FanBeam

        geometry, pixels = setup.geometry, setup.grid.rows
        assert isinstance(geometry, FanGeometry)
        # Its outer pixel centres lie at -1 and 1, and so do its outer bins; a length L in "pixels"
        # is 2 L / pixels there.
        self.half_mm = setup.grid.pixel_mm * (pixels - 1) / 2
        unit = 2 * self.half_mm / pixels
        start = float(geometry.angles[0]) - np.pi / 2
        self.projector = FanBeam(
            img_size=pixels,
            n_angles=geometry.n_views,
            n_det=geometry.n_bins,
            src_dist=geometry.source_to_isocentre_mm / unit,
            det_dist=(geometry.source_to_detector_mm - geometry.source_to_isocentre_mm) / unit,
            det_width=geometry.detector_pitch_mm * (geometry.n_bins - 1) / unit,
            angle_range=(start, start + 2 * np.pi),
            circle=False,
        )
        self.step = 2 * np.pi / geometry.n_views

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`; flipped rows and flipped bins turn its axes into ours."""
        projector, mm = self.projector, self.half_mm
        if operation == "forward":
            return kept(projector.forward, x.flip(-2), lambda y: y.flip(-1) * mm)
        function, scale = {
            "adjoint": (projector.adjoint, mm),
            "backproject": (projector.backproject, 2 / self.step),
            "fbp": (projector.fbp, 1 / (mm * MU_WATER_PER_MM)),
        }[operation]
        return kept(function, x.flip(-1).contiguous(), lambda y: y.flip(-2) * scale)


class Astra(Library):
    """ASTRA on the CPU: it takes images one by one and has no threads.

    On the CPU it has filtered back-projection for parallel beams only.
    """

    title = "ASTRA, line"
    packages = ("astra-toolbox",)
    beams = (FanGeometry, ParallelGeometry)
    threads = "one"
    kinds: ClassVar[tuple[str, str]] = ("line_fanflat", "linear")

    @classmethod
    def supports(cls, operation: str, setup: Setup) -> bool:
        """See `Library`."""
        if operation == "fbp":
            return isinstance(setup.geometry, ParallelGeometry)
        return super().supports(operation, setup)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import astra

        self.astra, geometry = astra, setup.geometry
        half = setup.grid.field_of_view_mm / 2
        self.volume = astra.create_vol_geom(*setup.grid.shape, -half, half, -half, half)
        common = geometry.detector_pitch_mm, geometry.n_bins, geometry.angles + np.pi / 2
        if isinstance(geometry, FanGeometry):
            sid, sdd = geometry.source_to_isocentre_mm, geometry.source_to_detector_mm
            self.scan = astra.create_proj_geom("fanflat", *common, sid, sdd - sid)
        else:
            self.scan = astra.create_proj_geom("parallel", *common)
        kind = self.kinds[isinstance(geometry, ParallelGeometry)]
        self.projector = astra.create_projector(kind, self.scan, self.volume)

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        forward = operation == "forward"
        shape = self.setup.geometry.shape if forward else self.setup.grid.shape
        inputs, outputs = _slices(x), [np.zeros(shape, np.float32) for _ in x]
        pairs = zip(inputs, outputs, strict=True)
        algorithms = [self._algorithm(operation, i, o) for i, o in pairs]

        def run() -> None:
            for algorithm in algorithms:
                self.astra.algorithm.run(algorithm)

        scale = 1 / MU_WATER_PER_MM if operation == "fbp" else 1.0
        return Call(run, lambda: _batch(outputs) * scale)

    def _algorithm(self, operation: str, source: Array, target: Array) -> int:
        name = {"forward": "FP", "adjoint": "BP", "fbp": "FBP"}[operation]
        image, sinogram = (source, target) if operation == "forward" else (target, source)
        options = self.astra.astra_dict(name)
        options["ProjectorId"] = self.projector
        options["ProjectionDataId"] = self.astra.data2d.link("-sino", self.scan, sinogram)
        key = "VolumeDataId" if operation == "forward" else "ReconstructionDataId"
        options[key] = self.astra.data2d.link("-vol", self.volume, image)
        return int(self.astra.algorithm.create(options))


class AstraStrip(Astra):
    """ASTRA's area-weighted footprint."""

    title = "ASTRA, strip"
    footprint = "bin"
    kinds = ("strip_fanflat", "strip")


class Rtk(Library):
    """RTK's CPU filters: the fan is the middle row of a cone beam, with a detector of one row.

    Joseph's projector needs three slices (the rays run through the middle one, the others get a
    weight of zero), back-projection two equal detector rows. One image at a time.
    """

    title = "RTK"
    packages = ("itk-rtk", "itk")
    operations = ("forward", "adjoint", "backproject", "fbp")

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

    def set_threads(self, threads: int) -> None:
        """See `Library`."""
        super().set_threads(threads)
        base = self.itk.MultiThreaderBase
        base.SetGlobalMaximumNumberOfThreads(threads)
        base.SetGlobalDefaultNumberOfThreads(threads)

    def _given(self, array: Array, spacing_mm: float, stacked: bool) -> Any:  # noqa: ANN401
        """Return a view of an array as an ITK image; its third axis may count views."""
        image = self.itk.image_view_from_array(array)
        image.SetSpacing([spacing_mm] * 3)
        image.SetOrigin(_origin(array.shape[::-1], spacing_mm, stacked))
        return image

    def _zeros(self, size: tuple[int, ...], spacing_mm: float, stacked: bool) -> Any:  # noqa: ANN401
        """Return what makes an image of zeros whenever a filter has used up the last one."""
        source = self.rtk.ConstantImageSource[self.type].New()
        source.SetSize(size)
        source.SetSpacing([spacing_mm] * 3)
        source.SetOrigin(_origin(size, spacing_mm, stacked))
        self.alive.append(source)  # an image does not keep the filter that makes it
        return source.GetOutput()

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        filters = [self._filter(operation, part) for part in _slices(x)]

        def run() -> None:
            for each in filters:
                each.Modified()
                each.Update()

        def read() -> Tensor:
            scale = 1 / MU_WATER_PER_MM if operation == "fbp" else 1.0
            found = [self.itk.array_from_image(f.GetOutput()) for f in filters]
            return _batch([f[:, f.shape[1] // 2] * scale for f in found]).float()

        return Call(run, read)

    def _filter(self, operation: str, part: Array) -> Any:  # noqa: ANN401
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


class Gratopy(Library):
    """gratopy with PoCL, an OpenCL for the CPU; its batch is a third axis."""

    title = "gratopy"
    packages = ("gratopy", "pyopencl", "pocl-binary-distribution")
    beams = (FanGeometry, ParallelGeometry)
    threads = "process"

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """See `Library`."""
        return {"POCL_MAX_PTHREAD_COUNT": str(threads)}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import gratopy
        import pyopencl

        self.gratopy, geometry = gratopy, setup.geometry
        self.array = __import__("pyopencl.array").array
        devices = [d for p in pyopencl.get_platforms() for d in p.get_devices()]
        cpus = [d for d in devices if d.type & pyopencl.device_type.CPU]
        self.queue = pyopencl.CommandQueue(pyopencl.Context(cpus[:1]))
        fan = isinstance(geometry, FanGeometry)
        lengths = {}
        if isinstance(geometry, FanGeometry):
            lengths = {"R": geometry.source_to_detector_mm, "RE": geometry.source_to_isocentre_mm}
        self.settings = gratopy.ProjectionSettings(
            self.queue,
            gratopy.FANBEAM if fan else gratopy.RADON,
            setup.grid.shape,
            geometry.angles - np.pi / 2,
            n_detectors=geometry.n_bins,
            angle_weights=1.0,
            detector_width=geometry.n_bins * geometry.detector_pitch_mm,
            image_width=setup.grid.field_of_view_mm,
            **lengths,
        )

    def set_threads(self, threads: int) -> None:
        """Check that the process was started for so many threads."""
        assert os.environ["POCL_MAX_PTHREAD_COUNT"] == str(threads)

    def call(self, operation: str, x: Tensor) -> Call:
        """See `Library`."""
        # rows, columns, batch for an image; bins, views, batch for a sinogram
        order = (1, 2, 0) if operation == "forward" else (2, 1, 0)
        given = self.array.to_device(
            self.queue, np.asfortranarray(x[:, 0].numpy().transpose(order))
        )
        function: Callable[..., Any] = {
            "forward": self.gratopy.forwardprojection,
            "adjoint": self.gratopy.backprojection,
        }[operation]
        results: list[Any] = []

        def run() -> None:
            results.clear()
            results.append(function(given, self.settings))
            self.queue.finish()

        def read() -> Tensor:
            found = results[0].get().reshape(*results[0].shape[:2], -1)
            if operation == "forward":
                return torch.from_numpy(found.transpose(2, 1, 0).copy())[:, None]
            # its adjoint is that of inner products weighted by pixel area and bin width
            pixel, pitch = self.setup.grid.pixel_mm, self.setup.geometry.detector_pitch_mm
            scaled = found.transpose(2, 0, 1) * np.float32(pixel**2 / pitch)
            return torch.from_numpy(scaled)[:, None]

        return Call(run, read)


LIBRARIES: dict[str, type[Library]] = {
    "fedm2ct": Ours,
    "fedm2ct-irregular": OursWithoutSymmetry,
    "fedm2ct-distance-driven": OursDistanceDriven,
    "astra": Astra,
    "astra-strip": AstraStrip,
    "torchtomo": TorchTomo,
    "rtk": Rtk,
    "gratopy": Gratopy,
    "sparse": SparseMatrix,
}
"""By the name that the command line knows."""
