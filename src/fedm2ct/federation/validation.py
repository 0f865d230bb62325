"""What the server accepts from a site. Checked before anything is averaged.

A wrong upload does not stop a round: it is left out, with the reason, and the others go on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import State, Upload


@dataclass(frozen=True)
class Limits:
    """How far an upload may stray.

    Attributes
    ----------
    max_samples
        Most training slices that a site may claim: a huge weight would hijack the average.
    norm_factor
        Longest update, as a multiple of the median length of the round's other updates. Generous:
        sites with different scanners differ by small factors, a broken or hostile one by orders
        of magnitude.
    norm_floor
        An update shorter than `norm_factor` times this fraction of the shared parameters' own
        length is always accepted, so that a site that hardly moves makes no offender of the rest.
    """

    max_samples: int = 1_000_000
    norm_factor: float = 10.0
    norm_floor: float = 0.01


@dataclass(frozen=True)
class Rejected:
    """An upload that was left out, and why."""

    site: str
    reason: str


def validate_uploads(
    uploads: Sequence[Upload],
    like: State,
    limits: Limits,
    fault: Callable[[Upload], str | None] = lambda _: None,
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

    Returns
    -------
    tuple
        The accepted uploads, sorted by site name, and the rejected ones with their reasons.
    """
    accepted: dict[str, Upload] = {}
    rejected: list[Rejected] = []
    for upload in sorted(uploads, key=lambda u: u.site):
        reason = _own_fault(upload, like, limits) or fault(upload)
        if reason is None and upload.site in accepted:
            reason = "a second upload under the same site name"
        if reason is None:
            accepted[upload.site] = upload
        else:
            rejected.append(Rejected(upload.site, reason))
    for group in _groups(like):
        for site, reason in _outliers(list(accepted.values()), group, limits).items():
            del accepted[site]
            rejected.append(Rejected(site, reason))
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
    fault = _tensor_fault(shared, before)
    if fault is not None:
        raise FedM2CTError(
            f"round {round_index}: the server's aggregate is unusable ({fault}); lower the "
            "learning rate, or resume after correcting the method's server half"
        )


def update_norm(state: Mapping[str, Tensor], shared: State) -> float:
    """Return the Euclidean length of ``state - shared`` over the real parameters, in float64.

    Whole-number buffers, such as counters, are left out.
    """
    squares = [
        float((state[name].double() - value.double()).square().sum())
        for name, value in shared.items()
        if value.is_floating_point()
    ]
    return math.sqrt(math.fsum(squares))


def _own_fault(upload: Upload, shared: State, limits: Limits) -> str | None:
    samples = upload.samples
    if isinstance(samples, bool) or not isinstance(samples, int):
        return f"samples is {samples!r}, not a whole number"
    if not 1 <= samples <= limits.max_samples:
        return f"samples is {samples}, outside 1..{limits.max_samples}"
    return _tensor_fault(upload.shared, shared)


def _tensor_fault(state: Mapping[str, Tensor], like: State) -> str | None:
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


def _groups(like: State) -> list[State]:
    """Split what travels by the prefix of its names: each kind has a length of its own."""
    groups: dict[str, State] = {}
    for name, value in like.items():
        prefix = name.partition(".")[0] if "." in name else ""
        groups.setdefault(prefix, {})[name] = value
    return list(groups.values())


def _outliers(uploads: list[Upload], shared: State, limits: Limits) -> dict[str, str]:
    """Name the uploads whose update is far longer than those of the round's other sites."""
    lengths = {upload.site: update_norm(upload.shared, shared) for upload in uploads}
    zeros = {name: torch.zeros_like(value) for name, value in shared.items()}
    floor = limits.norm_floor * update_norm(shared, zeros)
    found: dict[str, str] = {}
    for site, length in lengths.items():
        others = [other for name, other in lengths.items() if name != site]
        typical = max(median(others), floor) if others else 0.0
        if typical > 0 and length > limits.norm_factor * typical:
            found[site] = (
                f"its update is {length / typical:.3g} times as long as is typical of this "
                f"round, more than {limits.norm_factor:g}"
            )
    return found
