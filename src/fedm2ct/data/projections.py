"""Projections on disk: HDF5 with the protocol they were measured under.

Layout of a file: attributes ``format`` (``"fedm2ct-projections"``), ``version`` (1), ``protocol``
(JSON, see `physics.protocol_files`) and ``provenance`` (JSON); dataset ``projections``, line
integrals, float32 ``(n, 1, views, bins)``; optional dataset ``truth_hu``, normal-dose images in
HU, float32 ``(n, 1, rows, columns)``.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from fedm2ct.errors import FedM2CTError
from fedm2ct.physics.protocols import (
    Protocol,
    ProtocolError,
    protocol_from_dict,
    protocol_to_dict,
)

FORMAT: Final = "fedm2ct-projections"
VERSION: Final = 1


class ProjectionsError(FedM2CTError):
    """A file of projections that cannot be written, read or understood."""


def write_projections(
    path: str | os.PathLike[str],
    projections: torch.Tensor,
    protocol: Protocol,
    *,
    truth_hu: torch.Tensor | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write projections and their protocol; the file appears whole or not at all.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    projections
        Line integrals (dimensionless), shape ``(n, 1, views, bins)``.
    protocol
        How they were acquired.
    truth_hu
        Normal-dose images in HU on the protocol's grid, shape ``(n, 1, rows, columns)``.
    provenance
        Anything JSON can hold: seed, scan, slices.

    Raises
    ------
    ProjectionsError
        If shapes do not fit the protocol, values are not finite, or the disk refuses.
    """
    target = Path(path)
    arrays = {"projections": (projections, protocol.geometry.shape)}
    if truth_hu is not None:
        arrays["truth_hu"] = (truth_hu, protocol.grid.shape)
    checked = {
        field: _checked(tensor.detach().cpu().numpy(), field, shape, target)
        for field, (tensor, shape) in arrays.items()
    }
    if len({len(array) for array in checked.values()}) > 1:
        raise ProjectionsError(f"{target}: projections and truth_hu differ in their number.")
    attributes: dict[str, str | int] = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": json.dumps(protocol_to_dict(protocol)),
        "provenance": json.dumps(dict(provenance or {})),
    }
    try:
        _write(target, checked, attributes)
    except OSError as error:
        reason = error.strerror or "the disk is full or not writable"
        raise ProjectionsError(
            f"{target}: cannot be written ({reason}); free some space or choose another place."
        ) from error
    return target


def read_projections(path: str | os.PathLike[str]) -> tuple[torch.Tensor, Protocol]:
    """Read projections, float32 ``(n, 1, views, bins)``, and their protocol.

    Raises
    ------
    ProjectionsError
        If the file is missing, damaged, of another format or version, or inconsistent.
    """
    with _Reader(path) as file:
        protocol = file.protocol()
        return file.tensor("projections", protocol.geometry.shape), protocol


def read_truth(path: str | os.PathLike[str]) -> torch.Tensor | None:
    """Read the normal-dose images in HU, float32 ``(n, 1, rows, columns)``; None if there are none.

    Raises
    ------
    ProjectionsError
        As `read_projections`.
    """
    with _Reader(path) as file:
        if "truth_hu" not in file.file:
            return None
        return file.tensor("truth_hu", file.protocol().grid.shape)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what the writer stored of the projections' origin; empty where there is nothing.

    Raises
    ------
    ProjectionsError
        If the file is missing, damaged, of another format or version.
    """
    with _Reader(path) as file:
        try:
            stored = json.loads(file.file.attrs.get("provenance", "{}"))
        except (TypeError, json.JSONDecodeError):
            stored = None
        if not isinstance(stored, dict):
            raise ProjectionsError(f"{file.path}: attribute provenance is damaged; write it again.")
        return stored


class _Reader:
    """An open file of projections, its format and version checked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ProjectionsError(f"{self.path}: no such file; check the path.")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise ProjectionsError(
                f"{self.path}: is truncated or not HDF5; write or copy it again."
            ) from error

    def __enter__(self) -> "_Reader":
        try:
            self._check_format()
        except BaseException:
            self.file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _check_format(self) -> None:
        found = self.file.attrs.get("format")
        if found != FORMAT:
            raise ProjectionsError(
                f"{self.path}: attribute format is {found!r}, expected {FORMAT!r}; "
                "make such a file with `fedm2ct simulate`."
            )
        version = self.file.attrs.get("version")
        if version != VERSION:
            raise ProjectionsError(
                f"{self.path}: attribute version is {version}, this program reads {VERSION}; "
                "use the program's version that wrote the file."
            )

    def protocol(self) -> Protocol:
        """Parse the protocol."""
        text = self.file.attrs.get("protocol")
        if not isinstance(text, str):
            raise ProjectionsError(f"{self.path}: attribute protocol is missing; write it again.")
        try:
            return protocol_from_dict(json.loads(text))
        except (json.JSONDecodeError, ProtocolError) as error:
            raise ProjectionsError(f"{self.path}: attribute protocol: {error}") from error

    def tensor(self, field: str, shape: tuple[int, int]) -> torch.Tensor:
        """Read a dataset of shape ``(n, 1, *shape)``."""
        dataset = self.file.get(field)
        if not isinstance(dataset, h5py.Dataset):
            raise ProjectionsError(f"{self.path}: dataset {field} is missing; write it again.")
        try:
            values = dataset[()]
        except OSError as error:
            raise ProjectionsError(
                f"{self.path}: dataset {field} is damaged; write or copy the file again."
            ) from error
        return torch.from_numpy(_checked(np.asarray(values), field, shape, self.path))


def _checked(
    values: NDArray[Any], field: str, shape: tuple[int, int], path: Path
) -> NDArray[np.float32]:
    if values.dtype.kind not in "iuf":
        raise ProjectionsError(f"{path}: {field} is of type {values.dtype}, expected real numbers.")
    if values.ndim != 4 or values.shape[1:] != (1, *shape) or len(values) == 0:
        raise ProjectionsError(
            f"{path}: {field} has shape {values.shape}, "
            f"the protocol needs (n, 1, {shape[0]}, {shape[1]})."
        )
    if not np.isfinite(values).all():
        raise ProjectionsError(f"{path}: {field} holds NaN or infinite values; measure again.")
    return np.ascontiguousarray(values, dtype=np.float32)


def _write(
    target: Path, arrays: Mapping[str, NDArray[np.float32]], attributes: Mapping[str, str | int]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        with h5py.File(name, "w") as file:
            file.attrs.update(attributes)
            for field, values in arrays.items():
                chunk = (1, *values.shape[1:])
                file.create_dataset(field, data=values, chunks=chunk, compression="gzip")
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
