"""One command at a time in a run's folder: two would remove each other's slices and rounds.

The lock is the kernel's (``flock``) on an empty file in the folder. It ends with the process that
holds it, however that ends; workers do not inherit it.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedm2ct.errors import FedM2CTError
from fedm2ct.files import storage_failure

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
_LOOK_S = 0.2


@contextmanager
def alone_in(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Keep every other command out of a folder, which is made where missing.

    On a system or a file system without such locks nobody is kept out.

    Parameters
    ----------
    folder
        The folder.
    patience_s
        How long to wait for the end of another command, in seconds.

    Raises
    ------
    FedM2CTError
        When another command is at work there.
    """
    if sys.platform == "win32":
        yield
        return
    path, new = folder / LOCK, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path, time.monotonic() + patience_s)
    except OSError as error:
        raise storage_failure(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if new:
            with contextlib.suppress(OSError):  # something was written
                folder.rmdir()


def _locked(path: Path, deadline: float) -> int:
    """Return the handle of the locked file."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() < deadline:
                time.sleep(_LOOK_S)
                continue
            raise FedM2CTError(
                f"another command is working in {path.parent}; wait for its end, or choose another "
                "--out folder"
            ) from None
        except OSError:
            return handle  # no locks here
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # whoever held it has just removed it: lock the new one
