"""What noise, or a robust average, costs where nobody attacks.

    python benchmarks/privacy.py noise [--seeds 0]        benchmarks/results/noise.json
    python benchmarks/privacy.py averages [--seeds 0]     benchmarks/results/averages.json

Noise is drawn from the run's seed here, so that a rerun gives the same numbers. The epsilons are
those that the first site's log ends with.
"""

import argparse
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
    **{f"slice {z:g}": _slice(z) for z in (0.0, 0.5, 1.0)},
}
AVERAGES: dict[str, Tables] = {
    rule: {"federation": {"aggregation": rule}} for rule in ("mean", "median", "trimmed-mean")
}


GROUPS = {"noise": (NOISE, "none"), "averages": (AVERAGES, "mean")}


def main() -> None:
    """Measure one group and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=list(GROUPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--method", default="fedavg")
    arguments = parser.parse_args()
    variants, reference = GROUPS[arguments.group]
    measured = measure_all(variants, [arguments.method], arguments.seeds, changes=SHORTER)
    found = measured[arguments.method]
    differences = against(found, reference)
    for name, result in found.items():
        result[f"psnr_minus_{reference}_db"] = differences[name]
    content = {
        "seeds": arguments.seeds,
        "method": arguments.method,
        "update_clip": UPDATE_CLIP,
        "slice_clip": SLICE_CLIP,
        arguments.group: found,
    }
    config = configured({}, methods=[arguments.method], changes=SHORTER)
    write(RESULTS / f"{arguments.group}.json", config, content)


if __name__ == "__main__":
    main()
