"""What noise and robust averages cost where nobody attacks, in benchmarks/results/privacy.json.

    python benchmarks/privacy.py [--seeds 0 1] [--method fedavg] [--only noise|averages]

Noise is drawn from the run's seed here, so that a rerun gives the same numbers. The epsilons are
those that the first site's log ends with.
"""

import argparse
from pathlib import Path

from federation_runs import Tables, against, configured, measure_all, write

RESULT = Path(__file__).parent / "results" / "privacy.json"
UPDATE_CLIP, SLICE_CLIP = 1.0, 1.0
FIXED = {"reproducible": True}


def _update(noise: float) -> Tables:
    return {"privacy": {"update_clip": UPDATE_CLIP, "update_noise": noise, **FIXED}}


def _slice(noise: float) -> Tables:
    return {"privacy": {"slice_clip": SLICE_CLIP, "slice_noise": noise, **FIXED}}


NOISE: dict[str, Tables] = {
    "none": {},
    **{f"update {z:g}": _update(z) for z in (0.0, 0.001, 0.003, 0.01, 0.1, 1.0)},
    **{f"slice {z:g}": _slice(z) for z in (0.0, 0.3, 1.0, 3.0)},
}
AVERAGES: dict[str, Tables] = {
    rule: {"federation": {"aggregation": rule}} for rule in ("mean", "median", "trimmed-mean")
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--method", default="fedavg")
    parser.add_argument("--only", choices=["noise", "averages"])
    arguments = parser.parse_args()
    content: dict[str, object] = {
        "seeds": arguments.seeds,
        "method": arguments.method,
        "update_clip": UPDATE_CLIP,
        "slice_clip": SLICE_CLIP,
    }
    groups = {"noise": (NOISE, "none"), "averages": (AVERAGES, "mean")}
    for group, (variants, reference) in groups.items():
        if arguments.only in (None, group):
            found = measure_all(variants, [arguments.method], arguments.seeds)[arguments.method]
            differences = against(found, reference)
            for name, result in found.items():
                result[f"psnr_minus_{reference}_db"] = differences[name]
            content[group] = found
    write(RESULT, configured({}, methods=[arguments.method]), content)


if __name__ == "__main__":
    main()
