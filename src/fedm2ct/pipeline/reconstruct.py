"""Projections from a file through a site's trained model, to an image file in HU."""

import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from fedm2ct.data.projections import read_projections, read_provenance
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.physics.protocols import Protocol, protocol_from_dict
from fedm2ct.pipeline.assess import HuArray, reconstruct
from fedm2ct.pipeline.manifest import chosen_seed, config_of, read_manifest
from fedm2ct.pipeline.unit import reconstructors_of

_FORMATS = (".nii.gz", ".nii", ".nrrd", ".npz")


def reconstruct_file(
    run: Path,
    site: str,
    projections: Path,
    out: Path,
    method: str,
    seed: int | None,
    progress: Callable[[int, int], None],
) -> tuple[int, ...]:
    """Reconstruct a file of projections; return the image's shape.

    Warns where their dose is not the site's.

    Raises
    ------
    FedM2CTError
        When the site or the method is not in the run, the geometry of the projections is not the
        site's, or the ending of `out` is not known.
    """
    suffix = next((s for s in _FORMATS if out.name.endswith(s)), None)
    if suffix is None:
        raise FedM2CTError(f"{out}: unknown ending; write {', '.join(_FORMATS)}")
    config, protocols = config_of(run), read_manifest(run)["protocols"]
    if site not in protocols:
        raise FedM2CTError(f"{run}: has no site {site!r}; it has {', '.join(protocols)}")
    seed, methods = chosen_seed(config, run, seed)
    if method not in methods:
        raise FedM2CTError(f"{run}: has no method {method!r}; it has {', '.join(methods)}")
    sinogram, measured = read_projections(projections)
    protocol = protocol_from_dict(protocols[site])
    if (measured.geometry, measured.grid) != (protocol.geometry, protocol.grid):
        raise FedM2CTError(
            f"{projections}: was measured with another geometry than that of site {site}; "
            "use projections of this site's protocol"
        )
    if _dose(measured) != _dose(protocol):
        warnings.warn(
            f"{projections}: was measured with {_dose(measured)}, but site {site}'s model was "
            f"trained with {_dose(protocol)}; its image may be too noisy or too smooth",
            stacklevel=2,
        )
    reconstructor = reconstructors_of({site: protocol}, run, method, seed, site)[""]
    image = reconstruct(reconstructor, sinogram, progress)
    apart = read_provenance(projections).get("slice_spacing_mm") or protocol.slice_thickness_mm
    pixel = protocol.grid.pixel_mm
    write_image(image, (float(apart or 1.0), pixel, pixel), out, suffix)
    return image.shape


def _dose(protocol: Protocol) -> str:
    """Return a protocol's dose in words."""
    return f"{protocol.photons:g} photons a ray and electronic noise {protocol.electronic_noise:g}"


def write_image(
    image: HuArray, spacing_zyx_mm: tuple[float, float, float], out: Path, suffix: str
) -> None:
    """Write HU ``(slice, row, column)`` with its spacing, atomically.

    Raises
    ------
    FedM2CTError
        When the disk is full or the folder cannot be written to.
    """
    if suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, hu=image, spacing_zyx_mm=np.asarray(spacing_zyx_mm))
        write_atomically(out, buffer.getvalue())
        return
    volume = sitk.GetImageFromArray(image)
    volume.SetSpacing(tuple(reversed(spacing_zyx_mm)))  # type: ignore[no-untyped-call]  # no stubs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{suffix}"
        try:
            sitk.WriteImage(volume, str(path), useCompression=suffix != ".nii")
        except RuntimeError:
            raise FedM2CTError(
                f"{out}: cannot be written; is there room in the folder for temporary files?"
            ) from None
        write_atomically(out, path.read_bytes())
