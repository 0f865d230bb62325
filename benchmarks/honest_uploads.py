"""How far honest uploads stray: what validation's limits must leave room for.

Every method that exchanges something is run on sites that differ in everything (protocol, patient,
number of slices), and every round's uploads are measured before anything is refused: the length of
each update against the round's others, against earlier rounds and against the parameters, its
cosine with the mean of the others, and how far these agree. From the last two follows how often a
flipped sign would be noticed. Results go to ``benchmarks/results/honest_uploads.json``.

Example: python benchmarks/honest_uploads.py --sites 4 8 --size 32 --rounds 6 --steps 10
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fedm2ct.config import parse_config
from fedm2ct.federation import strategy
from fedm2ct.federation.method import State, Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.outliers import (
    Limits,
    TrackRecord,
    agreement_of,
    cosine_to_mean,
    cosines_between,
    kinds,
    update_norm,
)
from fedm2ct.federation.run import run_method
from fedm2ct.federation.validation import Rejected, validate_uploads
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.prepare import read_cohort, site_tasks

RESULTS = Path(__file__).parent / "results" / "honest_uploads.json"
PROTOCOLS = ("demo-low-mas", "demo-sparse", "demo-limited", "demo-parallel")
REAL = ("lung1", "lung2", "pelvis", "liver_dicom")
SLICES = (12, 8, 10, 3)


def setup_of(sites: int, options: argparse.Namespace) -> Setup:
    """Return sites that differ in everything."""
    config = parse_config(
        {
            "name": "honest",
            "methods": ["fedm2ct"],
            "image_size": options.size,
            "sites": [
                {
                    "name": f"S{k}",
                    "protocol": options.protocols[k % len(options.protocols)],
                    "scans": [REAL[k] if options.real else f"phantom-{k + 1}"],
                    "slices": SLICES[k % 4],
                }
                for k in range(sites)
            ],
            "test": {"scans": ["phantom-99"], "slices": 1},
            "meta": {"scans": ["phantom-98"], "slices": 4},
            "model": {"width": options.width},
            "training": {"rounds": options.rounds, "local_steps": options.steps},
            "fedm2ct": {"meta_steps": options.steps},
        }
    )
    cohort = read_cohort(config)
    return Setup(config, site_tasks(cohort, 0), 0, cohort.public())


class Observer:
    """Stands in for `validate_uploads`: measures, then lets everybody pass."""

    def __init__(self) -> None:
        self.record = TrackRecord()
        self.seen: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def __call__(
        self,
        uploads: Sequence[Upload],
        like: State,
        limits: Limits,
        fault: Callable[[Upload], str | None],
        record: TrackRecord,
    ) -> tuple[list[Upload], list[Rejected]]:
        """Measure a round."""
        known = TrackRecord.from_json(self.record.as_json())
        _, rejected = validate_uploads(uploads, like, limits, fault, known)
        self.refused += [f"{r.site}: {r.reason}" for r in rejected]
        for kind, reference in kinds(like):
            self._measure(kind, reference, uploads)
        self.record.note(uploads, like)
        return list(uploads), []

    def _measure(self, kind: str, reference: State, uploads: Sequence[Upload]) -> None:
        size = update_norm({n: torch.zeros_like(v) for n, v in reference.items()}, reference)
        lengths = [update_norm(u.shared, reference) for u in uploads]
        between = cosines_between(uploads, reference)
        for index, length in enumerate(lengths):
            others = [k for k in range(len(uploads)) if k != index]
            floor = Limits().norm_floor * size
            typical = max(median(lengths[k] for k in others), floor)
            before = self.record.typical(kind)
            self.seen.append(
                {
                    "kind": kind,
                    "to_others": length / typical if typical else 0.0,
                    "to_earlier": length / max(before, floor) if before else 0.0,
                    "to_size": length / size if size else 0.0,
                    "cosine": cosine_to_mean(between, index, others),
                    "agreement": agreement_of(between, others),
                    "judged": size > 0,
                }
            )


def observe(method: str, setup: Setup, rounds: int) -> dict[str, Any]:
    """Run a method and return how far its uploads stray."""
    halves = METHODS[method](setup)
    observer, usual = Observer(), strategy.validate_uploads
    strategy.validate_uploads = observer  # type: ignore[assignment]  # looks on
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_method(
                halves.server, halves.clients, rounds, Path(folder),
                resume=False, seed=0, fingerprint="honest",
            )  # fmt: skip
    finally:
        strategy.validate_uploads = usual
    pairs = [(s["cosine"], s["agreement"]) for s in observer.seen if s["judged"]]
    judged = [cosine for cosine, _ in pairs]
    most = Limits().opposed
    return {
        **{k: max(s[k] for s in observer.seen) for k in ("to_others", "to_earlier", "to_size")},
        "lowest_cosine": min(judged, default=math.nan),
        "median_cosine": median(judged) if judged else math.nan,
        "uploads": len(observer.seen),
        # A flip turns a cosine's sign, and leaves the others' agreement as it is.
        "flips_noticed": sum(c >= most and a >= most for c, a in pairs) / max(1, len(pairs)),
        "directions": [(round(c, 3), round(a, 3)) for c, a in pairs],
        "refused": observer.refused,
    }


def main() -> None:
    """Run all methods and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 8], help="numbers of sites")
    parser.add_argument(
        "--protocols", nargs="+", default=PROTOCOLS, help="the sites' protocols, in turn"
    )
    parser.add_argument("--name", default="all different", help="name of the result")
    parser.add_argument("--methods", nargs="+", default=None, help="default: all that exchange")
    parser.add_argument("--size", type=int, default=32, help="image size")
    parser.add_argument("--width", type=int, default=4, help="networks' width")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="local steps a round")
    parser.add_argument("--real", action="store_true", help="real sample scans, four sites at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for sites in options.sites:
        setup = setup_of(sites, options)
        for method in options.methods or METHODS:
            if method.startswith("pooled") or not METHODS[method](setup).server.initial_shared():
                continue
            found = {"sites": sites, "method": method, **observe(method, setup, options.rounds)}
            results.append(found)
            print(
                f"{sites} {method:<12} others {found['to_others']:7.2f} earlier "
                f"{found['to_earlier']:7.2f} size {found['to_size']:7.3f} cosine "
                f"{found['lowest_cosine']:6.2f} (median {found['median_cosine']:5.2f}) flips "
                f"{found['flips_noticed']:.0%} refused {len(found['refused'])} "
                f"{found['refused'][:1]}",
                flush=True,
            )
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    record = {"options": vars(options), "limits": vars(Limits()), "results": results}
    write_atomically(RESULTS, json.dumps({**known, options.name: record}, indent=1).encode())


if __name__ == "__main__":
    main()
