"""Other people's libraries, one small class each; see `operators_library`."""

import os
from collections.abc import Callable
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
    batch_of,
    kept,
    slices_of,
)
from operators_rtk import Rtk
from torch import Tensor

from fedm2ct.physics.geometry import FanGeometry, ParallelGeometry
from fedm2ct.units import MU_WATER_PER_MM

Array = NDArray[np.float32]


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
        inputs, outputs = slices_of(x), [np.zeros(shape, np.float32) for _ in x]
        pairs = zip(inputs, outputs, strict=True)
        algorithms = [self._algorithm(operation, i, o) for i, o in pairs]

        def run() -> None:
            for algorithm in algorithms:
                self.astra.algorithm.run(algorithm)

        scale = 1 / MU_WATER_PER_MM if operation == "fbp" else 1.0
        return Call(run, lambda: batch_of(outputs) * scale)

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
