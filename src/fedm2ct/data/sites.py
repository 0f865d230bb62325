"""Who learns from whom: scans split among sites, tests and the server at patient level.

A *role* is a site's name, or ``"test"``, ``"meta"`` (the server's meta-set) or ``"validation"``.
No patient may have two roles, but sites, and only they, may take separate parts of one scan
(``SCAN@2/3`` is its second third). A site may hold out slices of its own patients for validation: a
contiguous block, kept apart by a gap, for neighbouring slices look alike.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedm2ct.data.samples import SAMPLES, load_sample
from fedm2ct.data.scans import Scan, ScanError, read_scan
from fedm2ct.errors import FedM2CTError

TEST, META, VALIDATION = "test", "meta", "validation"
"""Roles that are no site."""

_PART = re.compile(r"(.+)@(\d+)/(\d+)")
_GAP_SLICES = 2

BODY_ABOVE_HU = -500.0
"""Voxels above this count as body."""


class SplitError(FedM2CTError):
    """A split that would leak: a patient in two roles, or one that names no slices."""


@dataclass(frozen=True)
class Selection:
    """Slices of one scan that a role uses.

    Attributes
    ----------
    scan
        Name of a built-in sample, or path of a scan.
    patient
        The scan's patient.
    slices
        Indices to learn from or to test on.
    held_out
        Indices of the same scan kept for the role's own validation.
    """

    scan: str
    patient: str
    slices: tuple[int, ...]
    held_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse no slices, and slices both used and held out."""
        if not self.slices:
            raise SplitError(f"Scan {self.scan}: no slices are selected; name at least one.")
        both = sorted(set(self.slices) & set(self.held_out))
        if both:
            raise SplitError(f"Scan {self.scan}: slice {both[0]} is both used and held out.")

    @property
    def range(self) -> tuple[int, int]:
        """The first and the last slice of all."""
        every = (*self.slices, *self.held_out)
        return min(every), max(every)

    def is_apart_from(self, other: "Selection") -> bool:
        """Return whether their slices, of the same scan, are separate ranges."""
        (low, high), (first, last) = self.range, other.range
        return high < first or last < low


@dataclass(frozen=True)
class Split:
    """Roles and the slices each uses; checked to share no patient."""

    roles: Mapping[str, tuple[Selection, ...]]

    def __post_init__(self) -> None:
        """Refuse a patient in two roles, but for sites with separate parts of a scan."""
        owners: dict[str, list[tuple[str, Selection]]] = {}
        for role, selections in self.roles.items():
            for selection in selections:
                for other, scan in owners.setdefault(selection.patient, []):
                    if other != role and not self._may_share(role, selection, other, scan):
                        raise SplitError(
                            f"Scan {selection.scan} of {role!r} and scan {scan.scan} of {other!r} "
                            f"are of one patient ({selection.patient}); give each patient one "
                            "role only."
                        )
                owners[selection.patient].append((role, selection))

    def _may_share(self, role: str, mine: Selection, other: str, theirs: Selection) -> bool:
        """Return whether both are sites whose slices are separate ranges of the same scan."""
        both_sites = {role, other} <= set(self.sites)
        return both_sites and mine.scan == theirs.scan and mine.is_apart_from(theirs)

    @property
    def sites(self) -> tuple[str, ...]:
        """The roles that are sites."""
        return tuple(role for role in self.roles if role not in (TEST, META, VALIDATION))

    def __getitem__(self, role: str) -> tuple[Selection, ...]:
        """Return a role's selections; none where the role has no scans."""
        return self.roles.get(role, ())


def load_scan(name_or_path: str | os.PathLike[str]) -> Scan:
    """Load a built-in sample by its name, or read a scan from a path.

    A name of a sample means the sample, even beside a file of that name: write ``./name`` then.

    Raises
    ------
    ScanError
        If it is neither, or cannot be read.
    SamplesUnavailable
        If the sample cannot be had.
    """
    text = os.fspath(name_or_path)
    if text in SAMPLES:
        return load_sample(text)
    if not Path(text).exists() and not Path(text.rpartition("#")[0] or text).exists():
        close = difflib.get_close_matches(text, SAMPLES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"samples are {', '.join(SAMPLES)}."
        raise ScanError(f"{text}: no such scan file, folder or sample: {hint}")
    return read_scan(text)


def split_reference(text: str) -> tuple[str, tuple[int, int]]:
    """Return a scan's name or path, and which of how many parts is meant: ``lung1@2/3``.

    Raises
    ------
    SplitError
        If there is no such part.
    """
    match = _PART.fullmatch(text)
    if match is None or Path(text).exists():
        return text, (1, 1)
    part, parts = int(match[2]), int(match[3])
    if not 1 <= part <= parts:
        raise SplitError(f"{text}: there is no part {part} of {parts}; count from 1.")
    return match[1], (part, parts)


def select(
    scan: Scan,
    count: int,
    *,
    source: str | None = None,
    held_out_fraction: float = 0.0,
    gap_slices: int = _GAP_SLICES,
    part: tuple[int, int] = (1, 1),
) -> Selection:
    """Select evenly spaced slices of a scan, some of them held out (see `hold_out`).

    Parameters
    ----------
    scan
        The scan.
    count
        Number of slices, including those held out and those lost in the gap.
    source
        Name or path by which the scan can be loaded again; the scan's name by default.
    held_out_fraction, gap_slices
        Passed to `hold_out`.
    part
        Passed to `pick_slices`.
    """
    picked = pick_slices(scan, count, part=part)
    used, held_out = hold_out(picked, held_out_fraction, gap_slices)
    return Selection(source or scan.name, scan.patient, used, held_out)


def pick_slices(
    scan: Scan, count: int, minimum_body: float = 0.25, part: tuple[int, int] = (1, 1)
) -> tuple[int, ...]:
    """Evenly spaced slices of a scan, without those that show almost no body.

    Parameters
    ----------
    scan
        The scan.
    count
        Number of slices; all that qualify if there are fewer.
    minimum_body
        A slice qualifies if its body area is at least this fraction of the largest slice's.
    part
        Which of how many equal, contiguous parts of these slices; the last two slices of a part
        are left out, unless it is the last part, so that parts are not neighbours.

    Returns
    -------
    Indices in increasing order.

    Raises
    ------
    SplitError
        If ``count`` is not positive, or the part has no slices.
    """
    if count < 1:
        raise SplitError(f"Scan {scan.name}: {count} slices were asked for, expected at least 1.")
    area = _body_area(scan)
    good = _part_of(np.flatnonzero(area >= minimum_body * area.max()), part)
    if not len(good):
        raise SplitError(f"Scan {scan.name}: has too few slices for {part[1]} parts.")
    if count >= len(good):
        return tuple(good.tolist())
    # the middle of each of `count` equal parts
    places = (np.arange(count) + 0.5) * len(good) / count
    return tuple(good[places.astype(int)].tolist())


def _part_of(slices: NDArray[np.int64], part: tuple[int, int]) -> NDArray[np.int64]:
    """Return one of several equal, contiguous parts, with a gap before the next one."""
    index, parts = part
    first, end = (index - 1) * len(slices) // parts, index * len(slices) // parts
    return slices[first : end - (_GAP_SLICES if index < parts else 0)]


def hold_out(
    slices: Sequence[int], fraction: float, gap_slices: int = _GAP_SLICES
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Hold out the last, contiguous block of slices, and drop those too near to it.

    Parameters
    ----------
    slices
        Indices in a scan.
    fraction
        Part to hold out, at least one slice unless 0; below 1.
    gap_slices
        Slices less than or exactly this many slices of the scan away from the block are dropped.

    Returns
    -------
    used, held_out
        Indices in increasing order; disjoint.

    Raises
    ------
    SplitError
        If the fraction is out of range or nothing would be left to learn from.
    """
    if not 0 <= fraction < 1 or gap_slices < 0:
        raise SplitError(
            f"Held-out fraction is {fraction} and gap {gap_slices}: "
            "expected a fraction from 0 to below 1 and a gap of at least 0."
        )
    ordered = sorted(set(slices))
    if fraction == 0:
        return tuple(ordered), ()
    number = max(1, round(fraction * len(ordered)))
    block = tuple(ordered[-number:])
    used = tuple(i for i in ordered[:-number] if block[0] - i > gap_slices)
    if not used:
        raise SplitError(
            f"Holding out {number} of {len(ordered)} slices with a gap of {gap_slices} leaves "
            "none to learn from; use more slices or a smaller gap."
        )
    return used, block


def count_patients(selections: Iterable[Selection]) -> int:
    """Return the number of different patients."""
    return len({selection.patient for selection in selections})


def _body_area(scan: Scan) -> NDArray[np.int64]:
    """Pixels above `BODY_ABOVE_HU` in each slice, shape ``(z,)``."""
    return np.array([int((plane > BODY_ABOVE_HU).sum()) for plane in scan.hu], dtype=np.int64)
