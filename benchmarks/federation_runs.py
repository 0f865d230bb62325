"""Small federations on the built-in scans with one thing changed, scored on the test patient.

What `compression.py` and `privacy.py` share: the demo's four sites, smaller and shorter, through
the same functions as ``fedm2ct train``, in this process.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedm2ct
from fedm2ct.config import RunConfig, load_config, parse_config
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.prepare import Cohort, read_cohort
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.pipeline.summary import read_result
from fedm2ct.pipeline.unit import finish, train, unit_folder

DEMO = Path(fedm2ct.__file__).parent / "examples" / "demo.toml"
SMALLER: dict[str, dict[str, Any]] = {
    "test": {"slices": 12},
    "meta": {"slices": 12},
    "training": {"rounds": 8, "local_steps": 30},
    "fedm2ct": {"meta_steps": 30},
}
SHORTER: dict[str, dict[str, Any]] = {**SMALLER, "training": {"rounds": 5, "local_steps": 20}}
IMAGE_SIZE = 64
Tables = Mapping[str, Mapping[str, Any]]


def configured(
    tables: Tables, *, methods: list[str], changes: Tables = SMALLER, image_size: int = IMAGE_SIZE
) -> RunConfig:
    """Return the demo's configuration with some tables changed."""
    data = load_config(DEMO).model_dump(mode="json")
    data |= {"image_size": image_size, "methods": methods}
    for each in (changes, tables):
        for table, fields in each.items():
            data[table].update(fields)
    return parse_config(data)


def measure(config: RunConfig, cohort: Cohort, method: str, seed: int) -> dict[str, Any]:
    """Train and test one method under one seed; return its scores and its traffic.

    Returns
    -------
    dict
        ``psnr_db`` and ``ssim`` by site (the test patient's mean), bytes of one site's messages in
        a round, each way, and what else the log's last round says.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        unit = unit_folder(run, method, seed)
        train(config, cohort, method, seed, unit, False, lambda event: None)
        finish(config, cohort, method, seed, run)
        scores = read_result(run, method, seed)
        log = RunLog(unit / "metrics.jsonl").read()
    rounds = [event for event in log if event["event"] == "round"]
    sites = [event for event in rounds if event["site"] != "server"]
    last = {e["site"]: e for e in sites if e["round"] == config.training.rounds}
    spent = {n: v for n, v in next(iter(last.values())).items() if n.startswith("epsilon")}
    return {
        "psnr_db": {site: float(np.mean(s[""]["psnr_db"])) for site, s in scores.items()},
        "ssim": {site: float(np.mean(s[""]["ssim"])) for site, s in scores.items()},
        "bytes_up": int(np.median([e["bytes_up"] for e in sites])),
        "bytes_down": int(np.median([e["bytes_down"] for e in sites])),
        "dropped": sum(event["event"] == "dropped" for event in log),
        **spent,
    }


def measure_all(
    variants: Mapping[str, Tables],
    methods: Iterable[str],
    seeds: list[int],
    **sizes: Any,
) -> dict[str, dict[str, Any]]:
    """Measure every method under every variant and seed; tell of each on the console."""
    result: dict[str, dict[str, Any]] = {}
    torch.set_num_threads(1)
    cohort = read_cohort(configured({}, methods=["fedavg"], **sizes))
    for method in methods:
        for name, tables in variants.items():
            config = configured(tables, methods=[method], **sizes)
            runs = {str(seed): measure(config, cohort, method, seed) for seed in seeds}
            result.setdefault(method, {})[name] = summary(runs)
            means = [round(v, 3) for v in result[method][name]["mean_psnr_db"].values()]
            print(f"{method} {name}: {means} dB", flush=True)
    return result


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put the seeds' runs of one variant together; sites count alike."""
    first = next(iter(runs.values()))
    return {
        "mean_psnr_db": {s: float(np.mean(list(r["psnr_db"].values()))) for s, r in runs.items()},
        "mean_ssim": {s: float(np.mean(list(r["ssim"].values()))) for s, r in runs.items()},
        "psnr_db": {s: r["psnr_db"] for s, r in runs.items()},
        **{n: first[n] for n in first if n not in ("psnr_db", "ssim", "dropped")},
        "dropped": {s: r["dropped"] for s, r in runs.items()},
    }


def against(results: Mapping[str, Any], reference: str) -> dict[str, dict[str, float]]:
    """Return each variant's PSNR less the reference's under the same seed: mean, least, largest."""
    found = {}
    for name, result in results.items():
        other = results[reference]["mean_psnr_db"]
        differences = [value - other[seed] for seed, value in result["mean_psnr_db"].items()]
        found[name] = {
            "mean": float(np.mean(differences)),
            "least": min(differences),
            "largest": max(differences),
        }
    return found


def write(path: Path, config: RunConfig, content: Mapping[str, Any]) -> None:
    """Write a result with what is needed to repeat it."""
    record = {
        **provenance(),
        "config": config.model_dump(mode="json", exclude={"federation", "privacy"}),
        **content,
    }
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
