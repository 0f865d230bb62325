"""Files that are written whole or not at all."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from fedm2ct.errors import FedM2CTError

TEMPORARY_MARK = ".writing-"


class StorageError(FedM2CTError):
    """A file that cannot be written: names the file and the remedy."""


def storage_failure(path: Path, error: OSError) -> StorageError:
    """Return the error to show when a file cannot be written.

    Parameters
    ----------
    path
        The file that was being written.
    error
        What the operating system said.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"cannot write {path}: the disk is full; free some space and go on, with --resume "
            "where the run has ended (nothing that was stored before is lost)"
        )
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {path}: {reason}; make its folder writable")


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it.

    Parameters
    ----------
    path
        Where the file ends up; its folder is made where missing.
    data
        The whole content.
    mode
        The file's permissions from its first byte on, less what the process masks out.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written to. The old file stays as it was.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode))
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_failure(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_table(path: Path) -> dict[str, Any]:
    """Return a JSON file's values by name; none where there is no such file or it is damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def append_durably(path: Path, data: bytes) -> None:
    """Append to a file, all of it or nothing, and flush it to the disk.

    Parameters
    ----------
    path
        The file; it and its folder are made where missing.
    data
        What is added.

    Raises
    ------
    StorageError
        If it cannot be written; the file is then as it was.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise storage_failure(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, where folders can be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
