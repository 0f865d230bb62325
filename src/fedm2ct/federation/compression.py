"""Updates in fewer bytes: rounded to float16, or to 8-bit integers with one scale a tensor.

An update is what a site sends less what it was sent. Its tensors are rounded, laid end to end in
the order of their names, and sent as one array: the header that each array has on the wire would
otherwise outweigh what the smallest ones save. Whole numbers travel as they are.

Rounding errors are not lost: a site adds what it could not send in one round to its update of the
next (error feedback; Seide et al. 2014, doi 10.21437/Interspeech.2014-274; Karimireddy et al. 2019,
arXiv 1901.09847). What the server sends down is not compressed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedm2ct.federation.method import Compression, State

PACKED, SCALES = "update.packed", "update.scales"
_LEVELS = 127
_HALF_MAX = torch.finfo(torch.float16).max


class EncodingError(ValueError):
    """A compressed upload that does not hold what it should."""


def change(sent: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """Return ``sent - base`` where `base` has the name and `sent` is real; the rest as it is."""
    return {n: t - base[n] if n in base and _real(t) else t for n, t in sent.items()}


def apply_change(update: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """Undo `change`, to the rounding of a float32 sum."""
    return {n: t + base[n] if n in base and _real(t) else t for n, t in update.items()}


def encode(update: State, kind: Compression) -> State:
    """Return an update as it travels.

    Parameters
    ----------
    update
        Tensors of any shape, by name.
    kind
        ``fp16``: values beyond float16's range become its largest. ``int8``: a tensor's largest
        magnitude becomes 127. A tensor with NaN or infinity stays recognisable as such.
    """
    if kind == "none":
        return update
    names = sorted(name for name, tensor in update.items() if _real(tensor))
    whole = {name: tensor for name, tensor in update.items() if name not in names}
    flat = [update[name].detach().float().reshape(-1) for name in names]
    if kind == "fp16":
        rounded = [_half(value) for value in flat]
        return {**whole, PACKED: torch.cat([*rounded, torch.empty(0, dtype=torch.float16)])}
    scales = torch.stack([_scale(value) for value in flat]) if flat else torch.empty(0)
    levels = [_levels(value, scale) for value, scale in zip(flat, scales, strict=True)]
    return {**whole, PACKED: torch.cat([*levels, torch.empty(0, dtype=torch.int8)]), SCALES: scales}


def decode(sent: Mapping[str, Tensor], like: State, kind: Compression) -> State:
    """Return the update that `encode` was given, but for rounding.

    Parameters
    ----------
    sent
        What has travelled.
    like
        Tensors of the names, shapes and dtypes that the update must have.
    kind
        How it was encoded.

    Raises
    ------
    EncodingError
        If `sent` does not hold an update of that form. Values are not judged here: NaN and
        infinity come through.
    """
    names = sorted(name for name, tensor in like.items() if _real(tensor))
    own = {PACKED} if kind == "fp16" else {PACKED, SCALES}
    expected = (like.keys() - set(names)) | own
    if sent.keys() != expected:
        odd = sorted(sent.keys() ^ expected)[0]
        raise EncodingError(f"array {odd} is {'missing' if odd in expected else 'not expected'}")
    sizes = [like[name].numel() for name in names]
    packed = sent[PACKED]
    _check(PACKED, packed, torch.float16 if kind == "fp16" else torch.int8, sum(sizes))
    pieces = list(packed.float().split(sizes)) if sizes else []
    if kind == "int8":
        _check(SCALES, sent[SCALES], torch.float32, len(names))
        pieces = [p * s for p, s in zip(pieces, sent[SCALES], strict=True)]
    update = {n: sent[n] for n in like if n not in names}
    for name, piece in zip(names, pieces, strict=True):
        update[name] = piece.reshape(like[name].shape).to(like[name].dtype)
    return {name: update[name] for name in like}


def decode_upload(sent: Mapping[str, Tensor], like: State, kind: Compression) -> State:
    """Return an upload as it was before it was compressed, but for rounding; see `decode`."""
    return apply_change(decode(sent, like, kind), like)


def remainder(update: State, sent: Mapping[str, Tensor], kind: Compression) -> State:
    """Return what rounding has kept back of an update; nothing of a tensor that is not finite."""
    arrived = decode(sent, update, kind)
    left = {n: t - arrived[n] for n, t in update.items() if _real(t)}
    return {n: t if bool(t.isfinite().all()) else torch.zeros_like(t) for n, t in left.items()}


def _real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _half(value: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value.clamp(-_HALF_MAX, _HALF_MAX), value).half()


def _scale(value: Tensor) -> Tensor:
    """Return the step between levels; NaN or infinity where the tensor holds one."""
    return value.abs().max() / _LEVELS if value.numel() else value.new_zeros(())


def _levels(value: Tensor, scale: Tensor) -> Tensor:
    if not bool(scale.isfinite()):  # NaN or infinity times one level is still not finite
        return torch.ones_like(value, dtype=torch.int8)
    if float(scale) == 0.0:
        return torch.zeros_like(value, dtype=torch.int8)
    return (value / scale).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, length: int) -> None:
    if tensor.dtype != dtype or tensor.shape != (length,):
        raise EncodingError(
            f"array {name} is {tensor.dtype} of shape {list(tensor.shape)}, not {dtype} of "
            f"[{length}]"
        )
