"""A round's uploads on the server's disk, so that its memory does not grow with the sites.

Uploads can be averaged only once all are there: whether one is an outlier depends on the others.
Until then each lies in a file of its own and is read back tensor by tensor. An average goes through
the parameters one by one, and for each through the sites in the order of their names, as it would
in memory: the sums are the same to the bit, and what is in memory is one tensor, not one upload a
site. A median needs one tensor of all sites at once.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedm2ct.federation.method import Upload
from fedm2ct.files import storage_failure


class SpooledTensors(Mapping[str, Tensor]):
    """Named tensors in a file, read when they are asked for.

    Parameters
    ----------
    path
        The file; it holds the tensors under their places in `names`.
    names
        The tensors' names, which may be anything.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._places = {name: str(place) for place, name in enumerate(names)}

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(str(self._path), framework="pt") as stream:
            tensor: Tensor = stream.get_tensor(self._places[name])
            return tensor.clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Spool:
    """The uploads of one round; as a context manager it removes them when the round is done.

    Parameters
    ----------
    folder
        A folder for them and nothing else; what a killed process has left there is removed. None
        is for one among the system's temporary files, which may lie in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.mkdtemp(prefix="fedm2ct-")) / "uploads"
        self._temporary = self._folder if folder else self._folder.parent
        self._count = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def keep(self, upload: Upload) -> Upload:
        """Put an upload's tensors on disk; return it without them in memory.

        What the file format has no word for stays in memory: no method shares such tensors, so
        validation will refuse the upload.

        Raises
        ------
        StorageError
            If they cannot be written.
        """
        if not upload.shared:
            return upload
        path = self._folder / f"{self._count:06d}.safetensors"
        self._count += 1
        places = {str(place): tensor for place, tensor in enumerate(upload.shared.values())}
        try:
            data = safetensors.torch.save(places)
        except (SafetensorError, KeyError, ValueError):
            return upload
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise storage_failure(path, error) from error
        return replace(upload, shared=SpooledTensors(path, list(upload.shared)))
