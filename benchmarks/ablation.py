"""Ablation of FedM2CT: the full method, and the same with one thing changed, beside its rivals.

    python benchmarks/ablation.py examples/small.toml --out runs/ablation --seeds 0 1 2 --workers 2
    python benchmarks/ablation.py --setting all-in-one --scans DIR --out runs/ablation-all-in-one

Every variant is a run of its own in ``OUT/<variant>``: broken off, it goes on with ``--resume``,
and what is finished is not done again. All use the same scans, seeds, networks and steps, where a
row does not say otherwise. The numbers go to ``benchmarks/results/ablation.json``, and
``docs/ablation.md`` is made from them. With a setting of the benchmark the variants are scored on
its validation patients, on which ideas are kept or thrown away, and the files are
``ablation-SETTING-SIZE.json`` and ``.md``; what ``--rounds``, ``--steps`` and ``--site-slices`` ask
for is part of the files' names.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation_page import page
from ablation_scores import collect, read, read_for, with_rows
from ablation_variants import FULL, for_rounds, variants
from setting_options import add_setting_options, setting_of
from tqdm import tqdm

from fedm2ct.config import RunConfig, load_config, parse_config
from fedm2ct.data.sites import META, Split
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, run_jobs
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.cohort_files import store_cohort
from fedm2ct.pipeline.manifest import write_manifest
from fedm2ct.pipeline.prepare import Cohort, read_cohort
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.settings import SETTINGS
from fedm2ct.pipeline.train import check_folder
from fedm2ct.pipeline.tuning import validation_config
from fedm2ct.pipeline.unit import is_finished, run_unit, unit_folder

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    _name_files(options)
    try:
        if not options.table_only:
            run(options)
        write_atomically(options.page, page(read(options.results)).encode())
    except FedM2CTError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; go on with --resume.", file=sys.stderr)
        return 130
    print(f"Table: {options.page}")
    return 0


def run(options: argparse.Namespace) -> None:
    """Train and score what is missing, then store all numbers.

    Raises
    ------
    FedM2CTError
        When a variant is not known, the folder cannot be used, another command is at work in it, or
        a unit fails.
    """
    if (options.config is None) == (options.setting is None) or options.out is None:
        raise FedM2CTError(
            "the ablation needs a configuration or --setting, and --out (or --table-only)"
        )
    with alone_in(options.out):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    given, added = _given(options)
    base = base_config(given, options)
    names = chosen(base, options.variants)
    stored = read_for(base, options.results) if options.add else None
    if stored is not None:
        names.remove(FULL)
    cohort = prepare(base, names, options.out, resume=options.resume)
    slices = options.out / ".slices"
    try:
        store_cohort(cohort, slices)
        train(base, names, options.out, slices, options.workers)
    finally:
        shutil.rmtree(slices, ignore_errors=True)
    if stored is not None:
        results = with_rows(stored, base, names, options.out)
    else:
        about = {"added": added, "asked": _asked(options)}
        results = {**collect(base, names, options.out, options.workers), **about}
    write_atomically(options.results, json.dumps(results, indent=1).encode())
    print(f"Numbers: {options.results}")


def _given(options: argparse.Namespace) -> tuple[RunConfig, str]:
    """Return the file's configuration, or the setting's on its validation patients.

    And the options of the command line that added patients to the setting.
    """
    if options.setting is None:
        return load_config(options.config), ""
    setting = setting_of(options.setting, options)
    return validation_config(setting), setting.added


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is to be otherwise than by default, by option: what makes the page again.

    Files outside of the checkout are a machine's own and left out.
    """
    names = ("rounds", "steps", "site_slices", "seeds")
    found = {
        n.replace("_", "-"): value for n in names if (value := getattr(options, n)) is not None
    }
    for what, usual in _usual_files(options).items():
        path = getattr(options, what).resolve()
        if path != usual and path.is_relative_to(ROOT):
            found[what] = path.relative_to(ROOT).as_posix()
    return found


def _name_files(options: argparse.Namespace) -> None:
    """Fill in where results and page go."""
    for what, usual in _usual_files(options).items():
        setattr(options, what, getattr(options, what) or usual)


def _usual_files(options: argparse.Namespace) -> dict[str, Path]:
    """Return where results and page go by default."""
    name = "ablation" if options.setting is None else f"ablation-{options.setting}-{options.size}"
    for what in ("rounds", "steps", "site_slices"):
        if (number := getattr(options, what)) is not None:
            name += f"-{number}-{what.removeprefix('site_')}"
    return {
        "results": ROOT / "benchmarks" / "results" / f"{name}.json",
        "page": ROOT / "docs" / f"{name}.md",
    }


def base_config(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    """Return the full method's configuration: seeds, slices, rounds and steps as asked for.

    The server's meta-steps keep their ratio to the sites' steps, and what is simulated serves the
    same part of the rounds.
    """
    data = config.model_dump(mode="json")
    training, own = data["training"], data["fedm2ct"]
    if options.steps is not None:
        own["meta_steps"] = round(own["meta_steps"] * options.steps / training["local_steps"])
        training["local_steps"] = options.steps
    if options.rounds is not None:
        training.update(for_rounds(config.training, options.rounds))
    if options.seeds is not None:
        data["seeds"] = options.seeds
    if options.site_slices is not None:
        data["sites"] = [{**site, "slices": options.site_slices} for site in data["sites"]]
    source = str(options.config or options.setting)
    return parse_config({**data, "methods": ["fedm2ct"]}, source)


def chosen(base: RunConfig, wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the variants to run, the full method always among them.

    Raises
    ------
    FedM2CTError
        When one is not known.
    """
    known = list(variants(base))
    for name in wanted or ():
        if name not in known:
            raise FedM2CTError(f"there is no variant {name!r}; choose from {', '.join(known)}")
    return known if not wanted else [n for n in known if n == FULL or n in wanted]


def prepare(base: RunConfig, names: Sequence[str], out: Path, *, resume: bool) -> Cohort:
    """Check every variant's folder, then write its manifest; return the scans of all.

    Raises
    ------
    FedM2CTError
        When a folder holds something else, or a scan cannot be read.
    """
    configs = {name: variants(base)[name].config(base) for name in names}
    for name, config in configs.items():
        check_folder(config, out / name, resume)
    cohort = read_cohort(_with_public_scans(base), lambda text: print(text, flush=True))
    for name, config in configs.items():
        write_manifest(config, _cohort_of(config, cohort), out / name)
    return cohort


def _with_public_scans(base: RunConfig) -> RunConfig:
    source = "simulated" if base.meta.scans else base.meta.source
    return base.model_copy(update={"meta": base.meta.model_copy(update={"source": source})})


def _cohort_of(config: RunConfig, cohort: Cohort) -> Cohort:
    """Return what a variant uses of the scans: public ones only for a simulated meta-set."""
    if config.meta.source == "simulated":
        return cohort
    roles = {role: used for role, used in cohort.split.roles.items() if role != META}
    scans = {s.scan: cohort.scans[s.scan] for used in roles.values() for s in used}
    return replace(cohort, split=Split(roles), scans=scans)


def train(base: RunConfig, names: Sequence[str], out: Path, slices: Path, workers: int) -> None:
    """Run every unit that has no result yet; `slices` is where the scans' slices are stored.

    Raises
    ------
    FedM2CTError
        When a unit fails; the others are stopped and can be resumed.
    """
    known, jobs = variants(base), []
    for seed in base.seeds:
        for name in names:
            method, config = known[name].method, known[name].config(base)
            if is_finished(config, method, unit_folder(out / name, method, seed)):
                continue
            arguments = {
                "config": config.model_dump(mode="json"),
                "method": method,
                "seed": seed,
                "run": str(out / name),
                "cohort": str(slices),
                "resume": True,  # the folder was checked: it is new, or is to be gone on with
            }
            jobs.append(Job(f"{name}/seed-{seed}", run_unit, arguments))
    progress = Progress(sum(job.arguments["config"]["training"]["rounds"] for job in jobs))
    with contextlib.closing(progress.bar):
        run_jobs(jobs, workers, progress)


class Progress:
    """One bar over the rounds of all units, and a line for each unit that is done."""

    def __init__(self, rounds: int) -> None:
        self.bar = tqdm(total=rounds, unit="round", disable=rounds == 0)

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of `run_jobs`."""
        kind = event["event"]
        if kind == "checkpoint":
            self.bar.update(1)
        elif kind == "start":
            self.bar.update(event["round"])
        elif kind == "unit-done":
            self.bar.write(f"{event['job']} is done")
        elif kind in ("warning", "dropped", "failed"):
            site = event.get("site", "server")
            self.bar.write(f"{event['job']}: {site} {kind}: {event['reason']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "config", type=Path, nargs="?", help="the full method's configuration, TOML"
    )
    parser.add_argument("--setting", choices=SETTINGS, help="a setting of the benchmark instead")
    add_setting_options(parser)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--rounds", type=int, help="rounds, if not those of the configuration")
    parser.add_argument("--steps", type=int, help="local steps a round; meta-steps in proportion")
    parser.add_argument("--site-slices", type=int, help="slices of a site, likewise")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds, likewise")
    parser.add_argument("--variants", nargs="+", help="only these, and the full method")
    parser.add_argument(
        "--add", action="store_true", help="not the full method: rows for the stored results"
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--resume", action="store_true", help="go on with the runs in OUT")
    parser.add_argument(
        "--table-only", action="store_true", help="make the page from stored results"
    )
    parser.add_argument("--results", type=Path, help="where the numbers go")
    parser.add_argument("--page", type=Path, help="where the page goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
