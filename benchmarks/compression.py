"""What compressed uploads save and cost, in benchmarks/results/compression.json.

    python benchmarks/compression.py [--seeds 0] [--methods fedavg] [--shorter]

Each run has the seed, the batches and the schedule of the one without compression; only the
rounding differs. Bytes are those of the serialised messages. Methods that are stored already and
not asked for are kept.
"""

import argparse
import json
from pathlib import Path

from federation_runs import (
    SHORTER,
    SMALLER,
    Tables,
    against,
    configured,
    measure_all,
    write,
)

RESULT = Path(__file__).parent / "results" / "compression.json"
VARIANTS: dict[str, Tables] = {
    kind: {"federation": {"compression": kind}} for kind in ("none", "fp16", "int8")
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=["fedavg"])
    parser.add_argument("--kinds", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--shorter", action="store_true", help="fewer rounds and steps")
    arguments = parser.parse_args()
    changes = SHORTER if arguments.shorter else SMALLER
    variants = {kind: VARIANTS[kind] for kind in ("none", *arguments.kinds)}
    results = measure_all(variants, arguments.methods, arguments.seeds, changes=changes)
    for found in results.values():
        differences = against(found, "none")
        for name, result in found.items():
            result["psnr_minus_none_db"] = differences[name]
            result["bytes_up_share"] = result["bytes_up"] / found["none"]["bytes_up"]
            result["schedule"] = dict(changes["training"])
    stored = json.loads(RESULT.read_text(encoding="utf-8"))["methods"] if RESULT.exists() else {}
    config = configured({}, methods=arguments.methods, changes=changes)
    write(RESULT, config, {"seeds": arguments.seeds, "methods": {**stored, **results}})


if __name__ == "__main__":
    main()
