"""Which arrays an object can reach: what a half of a method could look at if it wished to."""

import gc
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_BEYOND = (type, types.ModuleType, str, bytes, int, float, torch.dtype, torch.device)


def _next(thing: Any) -> list[Any]:
    if isinstance(thing, types.FunctionType):  # what it closes over, not its module's globals
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return [*cells, *(thing.__defaults__ or ())]
    return gc.get_referents(thing)


def reachable_arrays(root: Any) -> Iterator[np.ndarray]:
    """Yield every tensor and array that can be reached from an object, as arrays."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _BEYOND):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            yield thing.detach().numpy()
        elif isinstance(thing, np.ndarray):
            yield thing
        waiting.extend(_next(thing))


def fingerprints(array: np.ndarray) -> set[bytes]:
    """Return the bytes of every image or sinogram in an array, whatever its leading axes."""
    if array.ndim < 2:
        return set()
    array = array.astype(np.float32)
    return {part.tobytes() for part in array.reshape(-1, *array.shape[-2:])}
