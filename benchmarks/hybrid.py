"""Sites without normal-dose images: every loss for them compared, beside what rivals do there.

    python benchmarks/hybrid.py --scans DIR                   # train, score, write
    python benchmarks/hybrid.py --scans DIR --rounds 4 --rows thinning fedfdd
    python benchmarks/hybrid.py --page-only                   # the page alone

The benchmark's setting `hybrid`, scored on its validation patients. A site without pairs sends
nothing, so what the others and the server do is the same whatever its loss is: the federation is
trained once a method, what it sends down is kept in WORK, and each row trains the sites without
pairs on that. Each finished row is stored in ``benchmarks/results/hybrid.json`` and not done again;
``docs/hybrid.md`` is made from it. With ``--rounds N`` both names end in ``-N-rounds``.
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
from hybrid_page import page
from setting_options import add_setting_options, setting_of

from fedm2ct.config import HybridConfig, RunConfig, parse_config
from fedm2ct.device import compute_device
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.perceptual import Perceptual
from fedm2ct.federation.method import State
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Halves, Setup
from fedm2ct.federation.storage import load_tensors, save_tensors
from fedm2ct.files import read_table, write_atomically
from fedm2ct.model.start import Start, analytical_input, starts_kept_in
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.assess import Reconstructor, assess, outputs_of
from fedm2ct.pipeline.fingerprints import unit_fingerprint
from fedm2ct.pipeline.perceptual import perceptual_metrics, prepare_perceptual
from fedm2ct.pipeline.prepare import (
    Cohort,
    acquire_tests,
    read_cohort,
    site_tasks,
    unpaired_sites,
)
from fedm2ct.pipeline.provenance import git_commit, provenance
from fedm2ct.pipeline.settings import short_names, without_folders
from fedm2ct.pipeline.tuning import validation_config

HERE = Path(__file__).resolve().parent
SEED = 0


@dataclass(frozen=True)
class Row:
    """A method, the terms of the loss at sites without pairs, and what to call both."""

    title: str
    method: str = "fedm2ct"
    loss: tuple[str, ...] = ()


ROWS = {
    "fbp": Row("FBP", "fbp"),
    "start": Row("what the networks start from", "start"),
    "alone": Row("the site alone, `noise2inverse`", "local", ("noise2inverse",)),
    "local-public": Row("the site alone, on the public scan's pairs", "local_public"),
    "fedavg": Row("FedAvg's network, received", "fedavg"),
    "fedfdd": Row("FedFDD's high band, received", "fedfdd"),
    "none": Row("FedM2CT's shared network, received"),
    "noise2inverse": Row("`noise2inverse`", loss=("noise2inverse",)),
    "split-views": Row("`split-views`", loss=("split-views",)),
    "thinning": Row("`thinning`", loss=("thinning",)),
    "consistency": Row("`consistency`", loss=("consistency",)),
    "equivariant": Row("`consistency`, `equivariance`", loss=("consistency", "equivariance")),
    "teacher": Row("`teacher`", loss=("teacher",)),
    "noise2inverse-teacher": Row("`noise2inverse`, `teacher`", loss=("noise2inverse", "teacher")),
    "thinning-teacher": Row("`thinning`, `teacher`", loss=("thinning", "teacher")),
    "public": Row("`public`", loss=("public",)),
    "teacher-public": Row("`teacher`, `public`", loss=("teacher", "public")),
    "all": Row("`thinning`, `teacher`, `public`", loss=("thinning", "teacher", "public")),
}


def config_of(row: Row, base: RunConfig) -> RunConfig:
    """Return a row's configuration."""
    data = base.model_dump(mode="json")
    return parse_config({**data, "hybrid": {"loss": list(row.loss)}}, row.title)


def downloads(config: RunConfig, method: str, cohort: Cohort, folder: Path) -> list[State]:
    """Return what the server sends before each round and at the end; trained once, then read.

    The loss at sites without pairs changes nothing of it; all else has a folder of its own.
    """
    rounds = config.training.rounds
    whatever = config.model_copy(update={"hybrid": HybridConfig()})
    kept = folder / f"{method}-{unit_fingerprint(whatever, method)}"
    files = [kept / f"{index}.safetensors" for index in range(rounds + 1)]
    if files[-1].exists():
        return [load_tensors(file)[0] for file in files]
    halves = halves_of(config, method, cohort, folder)
    shared = halves.server.initial_shared()
    sent = [shared]
    for index in range(1, rounds + 1):
        sites = sorted(set(halves.clients) - unpaired_sites(config))
        uploads = [halves.clients[site].fit(index, shared) for site in sites]
        shared = halves.server.aggregate(index, shared, uploads).shared
        sent.append(shared)
        print(f"{method}: round {index} of {rounds}", flush=True)
    for file, state in zip(files, sent, strict=True):
        save_tensors(file, state, {})
    return sent


def halves_of(config: RunConfig, method: str, cohort: Cohort, folder: Path) -> Halves:
    """Build a method's halves; what networks start from is kept in the folder for all rows."""
    tasks = site_tasks(cohort, SEED)
    with starts_kept_in(starts_folder(folder)):
        return METHODS[method](Setup(config, tasks, SEED, cohort.public(), compute_device()))


def starts_folder(work: Path) -> Path:
    """Return the folder of iterative images, made if it was not there."""
    folder = work / "starts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def trained(
    config: RunConfig, row: Row, cohort: Cohort, folder: Path
) -> tuple[dict[str, dict[str, Reconstructor]], dict[str, Any]]:
    """Train the sites without pairs; return their reconstructors, and what they logged."""
    unpaired = sorted(unpaired_sites(config))
    if row.method in ("fbp", "start"):
        start = config.model.start if row.method == "start" else "fbp"
        return {s: {"": started(start, cohort.protocols[s])} for s in unpaired}, {}
    sent = [{}] * (config.training.rounds + 1)
    if not row.method.startswith("local"):
        sent = downloads(config, row.method, cohort, folder)
    halves = halves_of(config, row.method, cohort, folder)
    found, log = {}, {}
    for site in unpaired:
        client, trainer = halves.clients[site], halves.trainers[site]
        rounds = [dict(client.fit(index, s).metrics) for index, s in enumerate(sent[:-1], 1)]
        log[site] = [*rounds, dict(client.finish(sent[-1]))]
        trainer.model.load_state_dict(trainer.chosen(), strict=False)
        found[site] = outputs_of(trainer.model.eval())
    return found, log


def started(start: Start, protocol: Protocol) -> Reconstructor:
    """Return the reconstruction that networks correct."""
    return lambda sinogram: analytical_input(start, sinogram, protocol)[:, :1]


def scored(
    reconstructors: dict[str, dict[str, Reconstructor]],
    config: RunConfig,
    cohort: Cohort,
    perceptual: Perceptual | None,
) -> dict[str, Any]:
    """Return each site's mean scores on the test slices, whose truth serves for nothing else."""
    tests = [(cohort.scans[s.scan], s.slices) for s in cohort.split["test"]]
    result: dict[str, Any] = {}
    for site, outputs in reconstructors.items():
        protocol = cohort.protocols[site]
        data, patients = acquire_tests(tests, protocol, site, SEED)
        _, scores = assess(outputs, data, protocol, patients, config.window, perceptual)
        result[site] = {output: _means(score) for output, score in scores.items()}
    return result


def _means(score: object) -> dict[str, float | None]:
    names = ("psnr_db", "ssim", "rmse_hu", "psnr_window_db", "lpips", "frechet_vgg16_relu3_3")
    values = {name: getattr(score, name) for name in names}
    return {name: None if v is None else float(np.mean(v)) for name, v in values.items()}


def stored(path: Path, base: RunConfig) -> dict[str, Any]:
    """Return the results so far.

    Raises
    ------
    FedM2CTError
        When they are of another configuration.
    """
    config = without_folders(base.model_dump(mode="json"))
    unpaired = sorted(unpaired_sites(base))
    results: dict[str, Any] = {"config": config, "unpaired": unpaired, "seed": SEED, "rows": {}}
    if path.exists():
        results = read(path)
    if results["config"] != config:
        raise FedM2CTError(f"{path} is of another configuration; move it away")
    return results


def read(path: Path) -> dict[str, Any]:
    """Read stored results.

    Raises
    ------
    FedM2CTError
        When there are none, or they are damaged.
    """
    results = read_table(path)
    if not {"config", "unpaired", "rows"} <= results.keys():
        raise FedM2CTError(f"{path}: holds no results; run it first without --page-only")
    return results


def store(
    path: Path, base: RunConfig, about: dict[str, Any], name: str, row: dict[str, Any]
) -> None:
    """Add a row to what is there now: another process may have added one in the meantime."""
    results = stored(path, base)
    results["rows"][name] = row
    results.update({**about, **provenance()})
    write_atomically(path, json.dumps(results, indent=1).encode())


def run(options: argparse.Namespace, base: RunConfig, added: str) -> None:
    """Train and score the rows that are missing, storing each as it is done.

    `added` are the options of the command line that added patients, for the page.
    """
    known = stored(options.results, base)["rows"]
    prepare_perceptual(base.evaluation.perceptual)
    perceptual = perceptual_metrics(base.evaluation.perceptual)
    cohort = read_cohort(base, lambda text: print(text, flush=True))
    slices = {short_names([s.scan])[0]: len(s.slices) for s in cohort.split["test"]}
    about = {"scored_slices": slices, "added": added}
    for name in options.rows or ROWS:
        if name in known:
            continue
        began, row = time.monotonic(), ROWS[name]
        config = config_of(row, base)
        reconstructors, log = trained(config, row, cohort, options.work)
        with starts_kept_in(starts_folder(options.work)):
            scores = scored(reconstructors, config, cohort, perceptual)
        found = {
            "method": row.method,
            "loss": list(row.loss),
            "sites": scores,
            "log": log,
            "seconds": time.monotonic() - began,
            "git_commit": git_commit(),
        }
        store(options.results, base, about, name, found)
        shown = {site: round(outputs[""]["psnr_db"], 2) for site, outputs in scores.items()}
        print(f"{name}: {shown} dB, {found['seconds']:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting_options(parser)
    parser.add_argument("--rounds", type=int, help="rounds, if not the size's")
    parser.add_argument("--work", type=Path, default=Path("runs/hybrid"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=None)
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--results", type=Path, help="where the numbers go")
    parser.add_argument("--page", type=Path, help="where the page goes")
    options = parser.parse_args(arguments)
    name = "hybrid" if options.rounds is None else f"hybrid-{options.rounds}-rounds"
    options.results = options.results or HERE / "results" / f"{name}.json"
    options.page = options.page or HERE.parent / "docs" / f"{name}.md"
    try:
        if not options.page_only:
            setting = setting_of("hybrid", options)
            run(options, validation_config(setting, options.rounds), setting.added)
        titles = {name: row.title for name, row in ROWS.items()}
        text = page(read(options.results), titles, options.rounds)
    except FedM2CTError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    write_atomically(options.page, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
