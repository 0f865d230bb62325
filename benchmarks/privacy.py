"""What noise, or a robust average, costs where nobody attacks.

    python benchmarks/privacy.py noise         benchmarks/results/noise.json
    python benchmarks/privacy.py averages      benchmarks/results/averages.json

Noise is drawn from the run's seed here, so that a rerun gives the same numbers. The epsilons are
those that the first site's log ends with.
"""

import argparse
import json
from pathlib import Path

from federation_runs import SHORTER, Tables, against, configured, measure_all, write

RESULTS = Path(__file__).parent / "results"
UPDATE_CLIP, SLICE_CLIP = 3.0, 1.0
FIXED = {"reproducible": True}


def _update(noise: float) -> Tables:
    return {"privacy": {"update_clip": UPDATE_CLIP, "update_noise": noise, **FIXED}}


def _slice(noise: float) -> Tables:
    return {"privacy": {"slice_clip": SLICE_CLIP, "slice_noise": noise, **FIXED}}


NOISE: dict[str, Tables] = {
    "none": {},
    **{f"update {z:g}": _update(z) for z in (0.0, 0.001, 0.01, 0.1)},
    **{f"slice {z:g}": _slice(z) for z in (0.5, 1.0)},
}
AVERAGES: dict[str, Tables] = {
    rule: {"federation": {"aggregation": rule}} for rule in ("mean", "median", "trimmed-mean")
}


GROUPS = {"noise": (NOISE, "none"), "averages": (AVERAGES, "mean")}


def main() -> None:
    """Measure one group, variant by variant, and write it; others that are stored stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=list(GROUPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--method", default="fedavg")
    parser.add_argument("--variants", nargs="+", help="some of them; all by default")
    arguments = parser.parse_args()
    variants, reference = GROUPS[arguments.group]
    path = RESULTS / f"{arguments.group}.json"
    config = configured({}, methods=[arguments.method], changes=SHORTER)
    for name in arguments.variants or variants:
        chosen = {name: variants[name]}
        measured = measure_all(chosen, [arguments.method], arguments.seeds, changes=SHORTER)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = {**stored.get(arguments.group, {}), **measured[arguments.method]}
        found = {known: found[known] for known in variants if known in found}
        for other, difference in (against(found, reference) if reference in found else {}).items():
            found[other][f"psnr_minus_{reference}_db"] = difference
        content = {
            "seeds": arguments.seeds,
            "method": arguments.method,
            "update_clip": UPDATE_CLIP,
            "slice_clip": SLICE_CLIP,
            arguments.group: found,
        }
        write(path, config, content)


if __name__ == "__main__":
    main()
