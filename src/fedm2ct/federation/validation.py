"""What the server accepts from a site. Checked before anything is averaged.

A wrong upload does not stop a round: it is left out, with the reason, and the others go on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.outliers import (
    Limits,
    TrackRecord,
    kinds,
    opposed,
    too_long,
    update_norm,
)

__all__ = [
    "Limits",
    "Rejected",
    "TrackRecord",
    "check_aggregate",
    "update_norm",
    "validate_uploads",
]

_LONGEST_REASON = 300


@dataclass(frozen=True)
class Rejected:
    """An upload that was left out, and why: a line of printable text, as it is made of what came.

    A site that chooses the names of its tensors must not be able to write lines into a log.
    """

    site: str
    reason: str

    def __post_init__(self) -> None:
        """Make both fit for a log."""
        object.__setattr__(self, "site", printable(self.site))
        object.__setattr__(self, "reason", printable(self.reason))


def printable(text: str) -> str:
    """Return a text as one line of printable characters, shortened where it is long."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def validate_uploads(
    uploads: Sequence[Upload],
    like: State,
    limits: Limits,
    fault: Callable[[Upload], str | None] = lambda _: None,
    record: TrackRecord | None = None,
) -> tuple[list[Upload], list[Rejected]]:
    """Separate usable uploads from the others.

    Parameters
    ----------
    uploads
        What the sites sent in this round.
    like
        What an upload must look like; usually the shared parameters that the sites started the
        round from. An update is the difference to it.
    limits
        Bounds on samples and on the length of an update.
    fault
        What the method itself finds wrong with an upload whose form is right.
    record
        The rounds before; the accepted uploads are added to it.

    Returns
    -------
    tuple
        The accepted uploads, sorted by site name, and the rejected ones with their reasons.
    """
    record = TrackRecord() if record is None else record
    accepted: dict[str, Upload] = {}
    rejected: list[Rejected] = []
    for upload in sorted(uploads, key=lambda u: u.site):
        reason = _own_fault(upload, like, limits, record) or fault(upload)
        if reason is None and upload.site in accepted:
            reason = "a second upload under the same site name"
        if reason is None:
            accepted[upload.site] = upload
        else:
            rejected.append(Rejected(upload.site, reason))
    for kind, reference in kinds(like):
        remaining = list(accepted.values())
        found = too_long(remaining, kind, reference, limits, record)
        remaining = [upload for upload in remaining if upload.site not in found]
        found |= opposed(remaining, reference, limits)
        for site, reason in found.items():
            del accepted[site]
            rejected.append(Rejected(site, reason))
    record.note(list(accepted.values()), like)
    return list(accepted.values()), rejected


def check_aggregate(round_index: int, shared: State, before: State) -> None:
    """Refuse an aggregate that no site could train on.

    Parameters
    ----------
    round_index
        The round, for the message.
    shared
        What the server's half made of the round.
    before
        The shared parameters before it.

    Raises
    ------
    FedM2CTError
        If names, shapes or dtypes have changed or a value is not finite.
    """
    fault = form_fault(shared, before)
    if fault is not None:
        raise FedM2CTError(
            f"round {round_index}: the server's aggregate is unusable ({fault}); lower the "
            "learning rate, or resume after correcting the method's server half"
        )


def _own_fault(upload: Upload, shared: State, limits: Limits, record: TrackRecord) -> str | None:
    samples = upload.samples
    if isinstance(samples, bool) or not isinstance(samples, int):
        return f"samples is {samples!r}, not a whole number"
    if not 1 <= samples <= limits.max_samples:
        return f"samples is {samples}, outside 1..{limits.max_samples}"
    first = record.samples.get(upload.site, samples)
    if not first / limits.samples_factor <= samples <= first * limits.samples_factor:
        return f"samples is {samples}, yet it was {first} in an earlier round"
    return form_fault(upload.shared, shared)


def form_fault(state: Mapping[str, Tensor], like: State) -> str | None:
    """Say how a state differs from another in form, or where it is not finite."""
    if missing := sorted(like.keys() - state.keys()):
        return f"parameter {missing[0]} is missing"
    if surplus := sorted(state.keys() - like.keys()):
        return f"parameter {surplus[0]} is not shared"
    for name, reference in like.items():
        tensor = state[name]
        if tensor.shape != reference.shape:
            return f"parameter {name} has shape {list(tensor.shape)}, not {list(reference.shape)}"
        if tensor.dtype != reference.dtype:
            return f"parameter {name} is {tensor.dtype}, not {reference.dtype}"
        if not bool(torch.isfinite(tensor).all()):
            return f"parameter {name} holds NaN or infinity"
    return None
