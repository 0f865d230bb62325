import sys
from pathlib import Path

# The benchmarks are scripts, not part of the package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

ABLATIONS = (
    "ablation",
    "ablation-all-in-one-small",
    "ablation-all-in-one-small-5-slices",
    "ablation-all-in-one-small-40-rounds",
    "ablation-multi-vendor-small",
)
"""Stored ablations, by the names of their files."""
