"""Uploads that no honest site sends: far too long, or against the direction of all the others.

Everything is judged within a kind of tensor (parameters, control variates ...), as their lengths
have nothing to do with one another.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

import numpy as np
import torch

from fedm2ct.federation.method import State, Upload

REMEMBERED_ROUNDS = 10
_BLOCK = 1 << 16
"""Values at a time, so that memory does not grow with the tensors times the sites."""


@dataclass(frozen=True)
class Limits:
    """How far an upload may stray.

    Attributes
    ----------
    max_samples
        Most training slices that a site may claim: a huge weight would hijack the average.
    samples_factor
        How many times more, or fewer, slices than in its first accepted round a site may claim: its
        data are the same throughout a run.
    norm_factor
        Longest update, as a multiple of the median length of the round's other updates. Generous:
        sites with different scanners differ by small factors, a broken or hostile one by orders
        of magnitude.
    change_factor
        The same, and as a multiple of the last rounds' too, for what has no length of its own, as
        changes of control variates: those are differences of gradients, and an honest limited-angle
        site's was seen at 112 times the others' in a last round, where learning rates are low.
    norm_floor
        An update shorter than `norm_factor` times this fraction of the shared parameters' own
        length is always accepted, so that a site that hardly moves makes no offender of the rest.
    history_factor
        Longest update, as a multiple of the median length in the last rounds: what holds where
        most of the round's sites are hostile, or one is alone. The same floor applies.
    size_factor
        Longest update, as a multiple of the shared parameters' own length: what holds in round 1.
    opposed
        Cosine that makes an offender: an update that points away from the others by at least this
        much, while they agree with one another by at least as much. High, for an honest site with a
        scanner unlike the others' was seen at -0.52 while these agreed (docs/security.md).
    voters
        Fewest others that can outvote a site in its direction.
    """

    max_samples: int = 1_000_000
    samples_factor: float = 2.0
    norm_factor: float = 10.0
    change_factor: float = 1000.0
    norm_floor: float = 0.01
    history_factor: float = 100.0
    size_factor: float = 100.0
    opposed: float = 0.7
    voters: int = 4


@dataclass
class TrackRecord:
    """What validation remembers of the rounds before: stored with every checkpoint.

    Attributes
    ----------
    samples
        The number of slices that each site claimed in its first accepted round.
    lengths
        By kind of tensor, the median length of the accepted updates in each of the last rounds.
    counted
        The last round in which an upload of each site was accepted.
    """

    samples: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, list[float]] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)

    def typical(self, kind: str) -> float:
        """Return the median length of the last rounds; zero where there is none."""
        return median(self.lengths.get(kind) or [0.0])

    def last_counted(self, site: str) -> int | None:
        """Return the last round in which a site's upload counted, 0 for none.

        None where that is not known: a checkpoint from before it was kept tells of slices only.
        """
        return self.counted.get(site, None if site in self.samples else 0)

    def note(self, accepted: Sequence[Upload], like: State) -> None:
        """Remember a round."""
        for upload in accepted:
            self.samples.setdefault(upload.site, upload.samples)
        for kind, reference in kinds(like):
            lengths = [update_norm(upload.shared, reference) for upload in accepted]
            if lengths and median(lengths) > 0:
                known = self.lengths.setdefault(kind, [])
                known.append(median(lengths))
                del known[:-REMEMBERED_ROUNDS]

    def as_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` makes the same record."""
        return {
            "samples": dict(self.samples),
            "lengths": {k: [*v] for k, v in self.lengths.items()},
            "counted": dict(self.counted),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record that `as_json` described.

        Raises
        ------
        ValueError, TypeError, AttributeError
            If it is none.
        """
        samples = {str(site): int(n) for site, n in stored.get("samples", {}).items()}
        lengths = {
            str(k): [float(v) for v in values] for k, values in stored.get("lengths", {}).items()
        }
        counted = {str(site): int(n) for site, n in stored.get("counted", {}).items()}
        return cls(samples, lengths, counted)


def update_norm(state: Mapping[str, torch.Tensor], shared: State) -> float:
    """Return the Euclidean length of ``state - shared`` over the real parameters, in float64.

    Whole-number buffers, such as counters, are left out.
    """
    squares = [
        float((state[name].double() - value.double()).square().sum())
        for name, value in shared.items()
        if value.is_floating_point()
    ]
    return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf


def kinds(like: State) -> Iterator[tuple[str, State]]:
    """Split what travels by the prefix of its names; yield each prefix with its tensors."""
    groups: dict[str, State] = {}
    for name, value in like.items():
        prefix = name.partition(".")[0] if "." in name else ""
        groups.setdefault(prefix, {})[name] = value
    yield from groups.items()


def too_long(
    uploads: Sequence[Upload], kind: str, reference: State, limits: Limits, record: TrackRecord
) -> dict[str, str]:
    """Name the uploads whose update is far longer than can be, with the reason.

    Parameters
    ----------
    uploads
        Uploads of the right form.
    kind, reference
        A kind of tensor and what its tensors are changes of.
    limits
        Bounds.
    record
        The rounds before.
    """
    lengths = {upload.site: update_norm(upload.shared, reference) for upload in uploads}
    size = update_norm({n: torch.zeros_like(v) for n, v in reference.items()}, reference)
    found: dict[str, str] = {}
    for site, length in lengths.items():
        others = [other for name, other in lengths.items() if name != site]
        now, past = limits.norm_factor, limits.history_factor
        if size == 0:
            now = past = limits.change_factor
        bounds = [(past, record.typical(kind), "was typical of the last rounds")]
        if others:
            typical = max(median(others), limits.norm_floor * size)
            bounds.insert(0, (now, typical, "is typical of this round"))
        for factor, typical, words in bounds:
            if typical > 0 and not length <= factor * max(typical, limits.norm_floor * size):
                found[site] = (
                    f"its update is {length / typical:.3g} times as long as {words}, more than "
                    f"{factor:g}"
                )
                break
        if site not in found and size > 0 and not length <= limits.size_factor * size:
            found[site] = (
                f"its update is {length / size:.3g} times as long as the shared parameters "
                f"themselves, more than {limits.size_factor:g}"
            )
    return found


def opposed(uploads: Sequence[Upload], reference: State, limits: Limits) -> dict[str, str]:
    """Name the uploads that point away from all the others while those agree, with the reason.

    Each update counts with the same length. Tensors whose reference is zero (changes of control
    variates, which honest sites send in opposite directions) are not judged.
    """
    size = update_norm({n: torch.zeros_like(v) for n, v in reference.items()}, reference)
    if len(uploads) <= limits.voters or size == 0:
        return {}
    cosines = cosines_between(uploads, reference)
    found: dict[str, str] = {}
    for index, upload in enumerate(uploads):
        others = [k for k in range(len(uploads)) if k != index]
        towards, agreement = cosine_to_mean(cosines, index, others), agreement_of(cosines, others)
        if towards <= -limits.opposed and agreement >= limits.opposed:
            found[upload.site] = (
                f"its update points away from the others' (cosine {towards:.2f}), which agree with "
                f"one another (at least {agreement:.2f})"
            )
    return found


def agreement_of(cosines: np.ndarray, members: Sequence[int]) -> float:
    """Return the lowest cosine between a member's update and the mean of the other members'."""
    return min(cosine_to_mean(cosines, k, [m for m in members if m != k]) for k in members)


def cosine_to_mean(cosines: np.ndarray, index: int, others: Sequence[int]) -> float:
    """Return the cosine between an update and the mean of others, all of length one."""
    length = math.sqrt(max(0.0, float(cosines[np.ix_(others, others)].sum())))
    return float(cosines[index, others].sum()) / length if length > 0 else 0.0


def cosines_between(uploads: Sequence[Upload], reference: State) -> np.ndarray:
    """Return the cosines between all updates, shape (upload, upload); zero for an empty one."""
    products = np.zeros((len(uploads), len(uploads)))
    for name, start in reference.items():
        if not start.is_floating_point():
            continue
        origin, ends = start.reshape(-1), [u.shared[name].reshape(-1) for u in uploads]
        for first in range(0, len(origin), _BLOCK):
            part = slice(first, first + _BLOCK)
            rows = torch.stack([end[part].double() - origin[part].double() for end in ends])
            products += (rows @ rows.T).numpy()
    lengths = np.sqrt(np.diag(products))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosines: np.ndarray = products * np.outer(scale, scale)
    return cosines
