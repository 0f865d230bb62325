"""A short training at full size on a GPU: whether it runs, what a round takes, and how much memory.

    python benchmarks/full_size.py --out RUN                      all-in-one, 512 x 512, real CT
    python benchmarks/full_size.py --out RUN --phantoms           the same without fetching scans
    python benchmarks/full_size.py --out RUN --size tiny --phantoms --rounds 1 --steps 2
                                                                  is the script whole? anywhere

Networks, images, views and batches are those of ``fedm2ct benchmark SETTING --size full``; slices,
rounds and steps are fewer, so its scores are no benchmark of methods. Methods take turns in this
process, alone on the device. A record is added to ``benchmarks/results/full-size.json``.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from fedm2ct.config import RunConfig, parse_config
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.manifest import write_manifest
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.settings import SETTINGS, SIZES, load_setting, without_folders
from fedm2ct.pipeline.summary import read_result
from fedm2ct.pipeline.train import slices_on_disk
from fedm2ct.pipeline.unit import run_unit, unit_folder

RESULTS = Path(__file__).parent / "results" / "full-size.json"


def shortened(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    """Return the run with fewer slices, rounds and steps, and the chosen methods under one seed."""
    data = config.model_dump()
    for role in (*data["sites"], data["test"], data["meta"]):
        role["slices"] = min(role["slices"], options.slices)
    data["training"].update(rounds=options.rounds, local_steps=options.steps)
    data["fedm2ct"]["meta_steps"] = options.steps
    data.update(methods=options.methods.split(","), seeds=[0])
    return parse_config(data, config.name)


def rounds_of(log: RunLog) -> list[dict[str, float]]:
    """Return the seconds of each round: the sites', one after the other, and the server's."""
    found: dict[int, dict[str, float]] = {}
    for line in log.read():
        if line.get("event") == "round":
            entry = found.setdefault(line["round"], {"sites": 0.0, "server": 0.0})
            entry["server" if line["site"] == "server" else "sites"] += line["seconds"]
    return [found[index] for index in sorted(found)]


def measured(config: RunConfig, method: str, run: Path, slices: Path) -> dict[str, Any]:
    """Train and test a method; return what it took and what it reached."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    run_unit(config.model_dump(mode="json"), method, 0, str(run), str(slices), False, print)
    seconds = time.perf_counter() - began
    scores = {site: outputs[""] for site, outputs in read_result(run, method, 0).items()}
    return {
        "seconds": seconds,
        "rounds": rounds_of(RunLog(unit_folder(run, method, 0) / "metrics.jsonl")),
        "peak_device_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else None,
        "psnr_db": {site: mean(s["psnr_db"]) for site, s in scores.items()},
        "ssim": {site: mean(s["ssim"]) for site, s in scores.items()},
    }


def line_of(method: str, entry: Mapping[str, Any]) -> str:
    """Return a method's line of the table; a round's seconds are those of the last one."""
    last = entry["rounds"][-1] if entry["rounds"] else {"sites": 0.0, "server": 0.0}
    memory = entry["peak_device_mb"]
    return (
        f"{method:12s} {entry['seconds']:8.1f} {last['sites']:8.1f} {last['server']:8.1f} "
        f"{'-' if memory is None else format(memory, '.0f'):>8s} "
        f"{mean(entry['psnr_db'].values()):7.2f} {mean(entry['ssim'].values()):7.4f}"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--setting", choices=SETTINGS, default="all-in-one")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--methods", default="fbp,tv,fedavg,fedm2ct")
    parser.add_argument("--slices", type=int, default=16, help="of a site and of the test, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of a site in a round")
    parser.add_argument("--phantoms", action="store_true", help="in place of the sample scans")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, to be made")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    setting = load_setting(options.setting, options.size, phantoms=options.phantoms)
    config = shortened(setting.config, options)
    cohort = read_cohort(config, print)
    record: dict[str, Any] = {
        **provenance(),
        "config": without_folders(config.model_dump(mode="json")),
        "methods": {},
    }
    before = json.loads(options.results.read_text()) if options.results.exists() else []
    with alone_in(options.out), slices_on_disk(cohort, options.out / ".slices") as slices:
        write_manifest(config, cohort, options.out)
        for method in config.methods:
            record["methods"][method] = measured(config, method, options.out, slices)
            write_atomically(options.results, json.dumps([*before, record], indent=1).encode())
    print("method        seconds    sites   server       MB    PSNR    SSIM   (last round: s)")
    for method, entry in record["methods"].items():
        print(line_of(method, entry))


if __name__ == "__main__":
    main()
