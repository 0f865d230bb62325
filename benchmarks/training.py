"""Benchmark of a training step of one site: where its time goes, and what would change it.

    python benchmarks/training.py                         # both sizes, about five minutes
    python benchmarks/training.py --setups demo           # the small one
    python benchmarks/training.py --page-only             # the page alone

Numbers go to ``benchmarks/results/training.json``; ``docs/training-benchmark.md`` is made from
them. Variants take turns, step by step, so that what else the machine does hits all of them.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak_memory import PeakMemory
from torch import Tensor, nn
from training_page import page
from training_parts import CT_PARTS, PARTS, Batch, Clock, step_in_parts, whole_step

from fedm2ct.config import RunConfig, load_config
from fedm2ct.federation.methods.fedm2ct import model_spec
from fedm2ct.files import write_atomically
from fedm2ct.learning.losses import DISTANCES
from fedm2ct.learning.mutual import mutual_loss
from fedm2ct.learning.seeds import seeded_initialisation
from fedm2ct.learning.trainer import Loss, channels_last, make_optimiser
from fedm2ct.model.ts_iradonmap import TSiRadonMAP
from fedm2ct.physics.phantoms import abdomen_like, ellipse_image, ellipse_sinogram
from fedm2ct.physics.protocols import Protocol, get_protocol
from fedm2ct.pipeline.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "examples" / "small.toml"
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
PAGE = ROOT / "docs" / "training-benchmark.md"
GOAL = 0.25
"""The project's goal: CT operators take less than this share of a step at 128 x 128."""
SETUPS = {"demo": ("demo-low-mas", None), "mayo": ("mayo", 1)}
"""Protocol and batch; None is the configuration's."""


@dataclass(frozen=True)
class Variant:
    """What a step is done with; the defaults are what the trainer does."""

    title: str
    layout: str = "weights"
    """Channels last: ``none``, ``weights``, or ``weights and activations``."""
    adam: str = "fused"
    autocast: bool = False


VARIANTS = {
    "as-is": Variant("as the trainer does it"),
    "contiguous": Variant("weights not channels last", layout="none"),
    "activations": Variant("activations channels last, too", layout="weights and activations"),
    "foreach": Variant("Adam, foreach", adam="foreach"),
    "plain": Variant("Adam, one parameter at a time", adam="plain"),
    "bfloat16": Variant("autocast to bfloat16", autocast=True),
}


class Step:
    """A model, its optimiser and a batch: everything that one step needs."""

    def __init__(self, config: RunConfig, protocol: Protocol, batch: int, variant: Variant) -> None:
        self.variant = variant
        with seeded_initialisation(0, "training benchmark"):
            self.model = TSiRadonMAP(protocol, model_spec(config))
        if variant.layout != "none":
            channels_last(self.model)
        if variant.layout == "weights and activations":
            for network in (self.model.shared, self.model.private):
                assert network is not None
                network.register_forward_pre_hook(_to_channels_last)
        self.optimiser = optimiser_of(self.model, config, variant.adam)
        own = config.fedm2ct
        self.loss: Loss = mutual_loss(
            DISTANCES[config.training.loss], own.lambda_private, own.lambda_shared
        )
        self.batch = make_batch(self.model, batch)

    def whole(self) -> float:
        """Take a step as the trainer does; return its seconds."""
        begin = time.perf_counter()
        whole_step(self.model, self.loss, self.optimiser, self.batch, self.variant.autocast)
        return time.perf_counter() - begin

    def peak_mb(self) -> float | None:
        """Take a step; return by how many MB memory grew at most."""
        with PeakMemory() as memory:
            self.whole()
        return memory.peak_mb

    def in_parts(self) -> tuple[float, Clock]:
        """Take a step in parts; return its seconds and where they went."""
        clock, begin = Clock(), time.perf_counter()
        step_in_parts(
            self.model, self.loss, self.optimiser, self.batch, self.variant.autocast, clock
        )
        return time.perf_counter() - begin, clock


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *others = inputs
    return first.contiguous(memory_format=torch.channels_last), *others


def optimiser_of(model: TSiRadonMAP, config: RunConfig, adam: str) -> torch.optim.Adam:
    """Return the trainer's optimiser, or the same in another implementation of Adam."""
    fused = make_optimiser([model], config.training)
    if adam == "fused":
        return fused
    groups = [{k: group[k] for k in ("params", "lr", "base")} for group in fused.param_groups]
    return torch.optim.Adam(groups, foreach=adam == "foreach", fused=False)


def make_batch(model: TSiRadonMAP, size: int) -> Batch:
    """Return random bodies of ellipses; FBP is made before training, as the trainer does."""
    grid, geometry = model.protocol.grid, model.protocol.geometry
    bodies = [
        abdomen_like(torch.Generator().manual_seed(k), 0.8 * grid.field_of_view_mm)
        for k in range(size)
    ]
    sinogram = torch.cat([ellipse_sinogram(body, geometry) for body in bodies]).float()
    truth = torch.cat([ellipse_image(body, grid, 2) for body in bodies]).float()
    with torch.no_grad():
        analytical = model.analytical(sinogram) if model.needs_analytical else None
    return Batch(sinogram, truth, analytical)


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every variant of a setup; variants and threads take turns."""
    config = load_config(CONFIG)
    protocol_name, batch = SETUPS[name]
    batch = batch or config.training.batch_size
    protocol = get_protocol(protocol_name)
    steps = {v: Step(config, protocol, batch, VARIANTS[v]) for v in options.variants}
    rows = {
        (v, t): {"setup": name, "variant": v, "threads": t, "batch": batch, "status": "ok"}
        for v in steps
        for t in options.threads
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in rows}
    parted: dict[tuple[str, int], list[tuple[float, Clock]]] = {key: [] for key in rows}
    for turn in range(options.repeats + 1):
        for (variant, threads), row in rows.items():
            if row["status"] != "ok":
                continue
            torch.set_num_threads(threads)
            try:
                if turn == 0:  # warm-up: kernels compile, moments are made
                    steps[variant].whole()
                    row["peak_mb"] = steps[variant].peak_mb()
                    continue
                times[variant, threads].append(steps[variant].whole())
                parted[variant, threads].append(steps[variant].in_parts())
            except RuntimeError as error:
                row["status"] = str(error).splitlines()[0]
    return [_summary(row, times[key], parted[key]) for key, row in rows.items()]


def _summary(
    row: dict[str, Any], times: list[float], parted: list[tuple[float, Clock]]
) -> dict[str, Any]:
    """Add the median of the whole steps, and the parts of the median step in parts."""
    if row["status"] != "ok":
        return row
    whole, clock = sorted(parted, key=lambda pair: pair[0])[len(parted) // 2]
    parts = {
        part: {d: clock.seconds.get((part, d), 0.0) for d in ("forward", "backward")}
        for part in PARTS
    }
    ct = sum(sum(parts[part].values()) for part in CT_PARTS)
    summary = {
        **row,
        "seconds": float(np.median(times)),
        "fastest_seconds": min(times),
        "repeats": len(times),
        "seconds_in_parts": whole,
        "parts": parts,
        "ct_share": ct / whole,
        "outside_parts_share": 1 - sum(clock.seconds.values()) / whole,
    }
    print(
        f"{row['setup']} {row['variant']} threads {row['threads']}: "
        f"{summary['seconds'] * 1e3:.0f} ms, CT operators {summary['ct_share']:.0%}",
        flush=True,
    )
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    if not options.page_only:
        begin = time.perf_counter()
        rows = [row for name in options.setups for row in measure(name, options)]
        results = {
            **provenance(),
            "config": CONFIG.name,
            "goal": GOAL,
            "setups": {name: _describe(name) for name in options.setups},
            "variants": {name: VARIANTS[name].title for name in options.variants},
            "steps": rows,
            "seconds": time.perf_counter() - begin,
        }
        write_atomically(options.out, json.dumps(results, indent=1).encode())
        print(f"Numbers: {options.out}")
    try:
        stored = json.loads(options.out.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"Error: {options.out}: cannot be read ({error})", file=sys.stderr)
        return 1
    write_atomically(options.page, page(stored).encode())
    print(f"Page: {options.page}")
    return 0


def _describe(name: str) -> str:
    protocol_name, batch = SETUPS[name]
    protocol = get_protocol(protocol_name)
    batch = batch or load_config(CONFIG).training.batch_size
    views, bins = protocol.geometry.shape
    return (
        f"{protocol.grid.rows} x {protocol.grid.columns} pixels, {views} views x {bins} bins "
        f"(`{protocol_name}`), batch {batch}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--setups", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5, help="steps of each kind and variant")
    parser.add_argument("--page-only", action="store_true", help="make the page from the numbers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
