"""Values that must not leave a site, as the bytes by which they would be recognised."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from fedm2ct.federation import grid

VALUE = 0.0123456789  # planted in private tensors: no training step moves it
PIXEL = 0.7654321  # planted in images
TEXTS = ("canary-patient", "canary-provenance", "canary-path", "canary-name")


def spellings(value):
    """Return a number as it could be sent: in any float type, or as text."""
    exact = float(np.float32(value))
    arrays = [np.array(exact, dtype) for dtype in ("<f4", "<f8", ">f4", ">f8")]
    return [a.tobytes() for a in arrays] + [repr(exact).encode(), f"{exact:.6g}".encode()]


def rows_of(tensor):
    """Return 16 bytes from the middle of every row of an array that is not constant there."""
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    if array.ndim == 0 or array.shape[-1] * array.itemsize < 16:
        array = array.reshape(1, -1)
    rows = array.reshape(-1, array.shape[-1])
    count = 16 // array.itemsize
    start = max(0, (rows.shape[1] - count) // 2)
    parts = rows[:, start : start + count]
    telling = [part for part in parts if len(np.unique(part)) == count and part.all()]
    return {part.tobytes() for part in telling}


def plant_in_model(model):
    """Plant the canary in the first value of every private parameter; return their names.

    The gradient of that value is taken away, so that it is still there after any training.
    """
    owners = model.declare()
    names = []
    for name, parameter in model.named_parameters():
        if owners[name] == "private":
            first = (0,) * parameter.dim()
            parameter.data[first] = VALUE
            if parameter.requires_grad:
                parameter.register_hook(lambda g, first=first: _without(g, first))
            names.append(name)
    return names


def _without(gradient, place):
    kept = gradient.clone()
    kept[place] = 0
    return kept


def plant_in_images(data):
    """Plant the canary in a pixel of every image and a bin of every sinogram."""
    for images in (data.truth, data.projections, data.clean):
        images[:, :, images.shape[2] // 2, images.shape[3] // 2] = PIXEL


def record_wire(monkeypatch):
    """Return a list that will hold the bytes of every message, both ways, as it travels."""
    sent: list[bytes] = []
    original = grid.to_wire

    def recording(message, message_id):
        sent.append(original(message, message_id))
        return sent[-1]

    monkeypatch.setattr(grid, "to_wire", recording)
    return sent


def found_in(blobs, needles):
    """Return the needles that any of the blobs holds."""
    everything = b"\0\0".join(blobs)
    return {needle for needle in needles if needle in everything}


def outside_of_sites(folder: Path):
    """Yield path and content of every file outside the sites' own folders, unpacked."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "sites" not in path.relative_to(folder).parts:
            data = path.read_bytes()
            if zipfile.is_zipfile(io.BytesIO(data)):
                with zipfile.ZipFile(path) as packed:
                    data = b"\0\0".join(packed.read(name) for name in packed.namelist())
            yield path, str(path).encode() + data


def private_rows(state, shared_names):
    """Return what would betray any private tensor of a site's state.

    The best model's copy of the shared network is left out: it is what was sent or received.
    """
    found = set()
    for name, tensor in state.items():
        if name.removeprefix("best.") not in shared_names and torch.is_floating_point(tensor):
            found |= rows_of(tensor)
    return found
