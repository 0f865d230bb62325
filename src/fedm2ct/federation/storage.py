"""Named tensors on disk: written whole or not at all, checked for damage when read back.

A file is a safetensors file with one metadata entry, a JSON object, that says what the file is and
carries a SHA-256 over the tensors: a flipped bit or a cut-off tail is noticed, never trained on.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import State
from fedm2ct.files import TEMPORARY_MARK, write_atomically

FORMAT_VERSION = 1
_METADATA_KEY = "fedm2ct"


class CheckpointError(FedM2CTError):
    """What a run has stored cannot be used: names the file and the remedy."""


class DamagedFileError(CheckpointError):
    """A stored file is missing, truncated or altered: an older round may still be good."""


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process has left in a folder."""
    for leftover in folder.glob(f"*{TEMPORARY_MARK}*"):
        leftover.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Store named tensors with a description.

    Parameters
    ----------
    path
        The file, usually ``*.safetensors``.
    tensors
        Tensors of any shape, by name. They are copied to the CPU first.
    about
        What the file is, as JSON: checked by whoever loads it.

    Raises
    ------
    StorageError
        If the file cannot be written; an older one of that name is then untouched.
    """
    write_atomically(path, encode_tensors(tensors, about))


def encode_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file that `save_tensors` writes."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    description = {**about, "version": FORMAT_VERSION, "sha256": state_digest(copies)}
    metadata = {_METADATA_KEY: json.dumps(description, sort_keys=True)}
    return safetensors.torch.save(copies, metadata)


def load_tensors(path: Path) -> tuple[State, dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tuple
        The tensors by name, on the CPU, and the description.

    Raises
    ------
    DamagedFileError
        If the file is missing, truncated or altered.
    CheckpointError
        If another version of this project wrote it.
    """
    try:
        with safe_open(str(path), framework="pt") as stream:
            description = json.loads((stream.metadata() or {})[_METADATA_KEY])
            tensors = {name: stream.get_tensor(name).clone() for name in stream.keys()}  # noqa: SIM118 - a safetensors file has no iterator
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing") from error
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged and cannot be read") from error
    if not isinstance(description, dict) or description.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by another version of fedm2ct: use that version, or start the "
            "run again in another folder"
        )
    if description.get("sha256") != state_digest(tensors):
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum")
    return tensors, description


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a hash of the tensors' names, shapes and dtypes (not of their values)."""
    lines = [f"{name} {list(state[name].shape)} {state[name].dtype}" for name in sorted(state)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class RoundFiles:
    """The files ``PREFIX-0003.safetensors`` of a folder, one for each round that is kept.

    Parameters
    ----------
    folder
        The folder, made with the first file.
    prefix
        What the names begin with.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder
        self._prefix = prefix

    def path(self, round_index: int) -> Path:
        """Return the file of a round."""
        return self.folder / f"{self._prefix}-{round_index:04d}.safetensors"

    def rounds(self) -> list[int]:
        """Return the rounds for which there is a file, in ascending order."""
        pattern = re.compile(rf"{re.escape(self._prefix)}-(\d{{4,}})\.safetensors")
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))

    def newest_until(self, last: int) -> int | None:
        """Return the newest round up to `last` for which there is a file."""
        return max((n for n in self.rounds() if n <= last), default=None)

    def keep_since(self, first: int, last: int) -> None:
        """Keep the rounds to `last`, back to the newest one that is not later than `first`.

        So a site that was away keeps what it had when it left.
        """
        found = self.newest_until(first)
        self.keep(0 if found is None else found, last)

    def keep(self, first: int, last: int) -> None:
        """Remove the files of the rounds outside ``first..last``, and unfinished ones."""
        for round_index in self.rounds():
            if not first <= round_index <= last:
                self.path(round_index).unlink(missing_ok=True)
        remove_unfinished(self.folder)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
