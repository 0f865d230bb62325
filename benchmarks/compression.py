"""What compressed uploads save and cost, in benchmarks/results/compression.json.

    python benchmarks/compression.py [--seeds 0 1 2] [--methods fedavg fedm2ct]

Each run has the seed, the batches and the schedule of the one without compression; only the
rounding differs. Bytes are those of the serialised messages.
"""

import argparse
from pathlib import Path

from federation_runs import Tables, against, configured, measure_all, write

RESULT = Path(__file__).parent / "results" / "compression.json"
VARIANTS: dict[str, Tables] = {
    kind: {"federation": {"compression": kind}} for kind in ("none", "fp16", "int8")
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["fedavg", "fedm2ct"])
    arguments = parser.parse_args()
    results = measure_all(VARIANTS, arguments.methods, arguments.seeds)
    for found in results.values():
        differences = against(found, "none")
        for name, result in found.items():
            result["psnr_minus_none_db"] = differences[name]
            result["bytes_up_share"] = result["bytes_up"] / found["none"]["bytes_up"]
    config = configured({}, methods=arguments.methods)
    write(RESULT, config, {"seeds": arguments.seeds, "methods": results})


if __name__ == "__main__":
    main()
