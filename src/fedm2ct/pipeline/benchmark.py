"""A benchmark: every method under every seed of a setting, then one record of the results.

The units of work are those of any run (`fedm2ct.pipeline.train`), in the folder ``OUT/run``: what
is finished is not done again, and what was broken off goes on. The record takes in every finished
unit of the folder, of whatever call. It is ``OUT/results.json``; ``OUT/results.md`` is made from
it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedm2ct.config import SiteConfig
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import JobError
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.benchmark_scores import Costs, Results, newcomer_scores, scores_of
from fedm2ct.pipeline.benchmark_units import LEFT_OUT, origins, packed, places, timed_on
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.manifest import read_manifest, write_manifest
from fedm2ct.pipeline.newcomer import join_all, joined_scores
from fedm2ct.pipeline.notices import warnings_to
from fedm2ct.pipeline.prepare import read_cohort, unpaired_sites
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.settings import Setting, without_folders
from fedm2ct.pipeline.summary import read_result, reference
from fedm2ct.pipeline.train import check_scans, run_units
from fedm2ct.pipeline.tuned import Tuned
from fedm2ct.pipeline.unit import is_finished, seeds_in, unit_folder
from fedm2ct.report.benchmark_page import benchmark_page

Event = dict[str, Any]
_OF_A_CALL = {"methods", "seeds"}


@dataclass(frozen=True)
class Benchmark:
    """A setting, where its results go, and the tuned options that it has."""

    setting: Setting
    out: Path
    tuned: Tuned = field(default_factory=Tuned)
    workers: int = 1

    @property
    def run(self) -> Path:
        """The folder of the units of work."""
        return self.out / "run"

    def train(self, on_event: Callable[[Event], None]) -> list[str]:
        """Train and score what is not finished; return what failed, a sentence a method.

        A method that fails is left out and the others go on.

        Raises
        ------
        FedM2CTError
            When the setting or the folder cannot be used, or another command is at work in it.
        """
        left, failures = self.setting, []
        with (
            alone_in(self.run),
            warnings_to(lambda text: on_event({"event": "warning", "reason": text})),
        ):
            while True:
                try:
                    self._train(left, on_event)
                except JobError as error:
                    method = error.job.partition("/")[0]
                    others = [m for m in left.config.methods if m != method]
                    if not others or others == list(left.config.methods):
                        raise
                    failures.append(str(error))
                    on_event({"event": "warning", "reason": f"{error}; the others go on"})
                    left = left.chosen(others, None)
                else:
                    return failures

    def _train(self, setting: Setting, on_event: Callable[[Event], None]) -> None:
        config, workers = setting.config, self.workers
        run_units(
            config,
            self.run,
            resume=True,
            workers=workers,
            on_event=on_event,
            tuned_on=self.tuned.patients,
        )
        if setting.newcomer is not None:
            join_all(config, setting.newcomer, self.run, workers, on_event)

    def collect(self) -> dict[str, Any]:
        """Write the record and the page of all that is finished; return the record.

        Raises
        ------
        FedM2CTError
            As `record` does.
        """
        record = self.record()
        write_atomically(self.out / "results.json", json.dumps(record, indent=1).encode())
        write_atomically(self.out / "results.md", benchmark_page(record).encode())
        return record

    def record(self) -> dict[str, Any]:
        """Return the results of every finished unit, with all that is needed to repeat them.

        Raises
        ------
        FedM2CTError
            When nothing is finished, or a unit was scored or trained on other slices than the
            scans hold.
        """
        finished = self.finished()
        if not finished:
            raise FedM2CTError(f"{self.run}: no unit is finished yet; run the benchmark first")
        config, manifest = self.setting.config, self._manifest()
        for method, seeds in finished.items():
            for seed in seeds:
                check_scans(unit_folder(self.run, method, seed), manifest)
        results: Results = {
            method: {seed: read_result(self.run, method, seed) for seed in seeds}
            for method, seeds in finished.items()
        }
        unpaired = sorted(unpaired_sites(config))
        made_at = places(self.run, finished)
        timed = timed_on(made_at)
        costs = {method: self.costs(method, found, timed) for method, found in made_at.items()}
        made = provenance()
        made["machine"]["workers"] = self.workers
        return {
            "setting": self.setting.name,
            "size": self.setting.size,
            "title": self.setting.title,
            "command": self.setting.command,
            **made,
            "from": origins(made_at),
            "timed_on": timed,
            "config": without_folders(config.model_dump(mode="json", exclude=_OF_A_CALL)),
            "tuned": {m: values for m, values in self.tuned.options.items() if m in finished},
            "patients": manifest["patients"],
            "reference": {**reference(config), "interval": "95 %, bootstrap over test patients"},
            **scores_of(results, costs, unpaired),
            "left_out": self._left_out(finished),
            "newcomer": self._newcomer(finished),
        }

    def _left_out(self, finished: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
        """Return every round of a site that did not count: refused by validation, or failed."""
        return [
            {"method": method, "seed": seed, **{n: e[n] for n in ("round", "site", "reason")}}
            for method, seeds in finished.items()
            for seed in seeds
            for e in self._log(method, seed)
            if e.get("event") in LEFT_OUT
        ]

    def _manifest(self) -> dict[str, Any]:
        """Return the run's manifest; of a folder with restored units alone, from the scans."""
        if (self.run / "manifest.json").exists():
            return read_manifest(self.run)
        config = self.setting.config
        return write_manifest(config, read_cohort(config), self.run)

    def units(self) -> dict[str, Any]:
        """Return every finished unit, for `fedm2ct.pipeline.benchmark_units.unpack`.

        One that the setting's newcomer has still to join is left out: that takes its models, and
        there are none among what is kept.
        """
        site = self.setting.newcomer
        return packed(
            self.run,
            {
                method: [s for s in seeds if site is None or self._joined(site, method, s)]
                for method, seeds in self.finished().items()
            },
        )

    def _newcomer(self, finished: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
        """Return the scores of the site that has joined, where the setting has one."""
        site = self.setting.newcomer
        if site is None:
            return None
        joined = {
            method: [s for s in (self._joined(site, method, seed) for seed in seeds) if s]
            for method, seeds in finished.items()
        }
        scores = newcomer_scores({method: found for method, found in joined.items() if found})
        return {"site": site.model_dump(mode="json"), "methods": scores}

    def _joined(self, site: SiteConfig, method: str, seed: int) -> dict[str, dict[str, Any]]:
        folder = unit_folder(self.run, method, seed)
        return joined_scores(self.setting.config, site, method, folder)

    def finished(self) -> dict[str, list[int]]:
        """Return the seeds of every method that are finished under the setting's configuration."""
        found: dict[str, list[int]] = {}
        for method in ALL_METHODS:
            seeds = [s for s in seeds_in(self.run, method) if self._is_finished(method, s)]
            if seeds:
                found[method] = seeds
        return found

    def _is_finished(self, method: str, seed: int) -> bool:
        return is_finished(self.setting.config, method, unit_folder(self.run, method, seed))

    def costs(
        self,
        method: str,
        made_at: Mapping[int, Mapping[str, Any]],
        machine: Mapping[str, Any] | None,
    ) -> Costs:
        """Return what a unit costs: means over seeds, all sites and the server together.

        `made_at` says where each seed's unit was made. Seconds are of those of `machine` alone.
        """
        rounds = {
            seed: [e for e in self._log(method, seed) if e.get("event") == "round"]
            for seed in made_at
        }
        server = [e for lines in rounds.values() for e in lines if e["site"] == "server"]
        timed = [rounds[seed] for seed, at in made_at.items() if at.get("machine") == machine]
        seconds = sum(e["seconds"] for lines in timed for e in lines)
        return Costs(
            seconds=seconds / len(timed) if timed else None,
            rounds=len(server) // len(made_at),
            bytes_up=sum(e["bytes_up"] for e in server) / len(made_at),
            bytes_down=sum(e["bytes_down"] for e in server) / len(made_at),
        )

    def _log(self, method: str, seed: int) -> list[Event]:
        return RunLog(unit_folder(self.run, method, seed) / "metrics.jsonl").read()


def checkout_folders(checkout: Path) -> tuple[Path, Path]:
    """Return a checkout's folders of stored results and of pages.

    Raises
    ------
    FedM2CTError
        When the folder is no checkout.
    """
    results, docs = checkout / "benchmarks" / "results", checkout / "docs"
    if not results.is_dir() or not docs.is_dir():
        raise FedM2CTError(f"{checkout}: is no checkout (it has no benchmarks/results and docs)")
    return results, docs


def publish(record: dict[str, Any], units: dict[str, Any], checkout: Path) -> tuple[Path, ...]:
    """Write a record, its units and its page into a checkout of the project; return the paths.

    Raises
    ------
    FedM2CTError
        When the folder is no checkout.
    """
    results, docs = checkout_folders(checkout)
    name = f"{record['setting']}-{record['size']}"
    data, page = results / f"{name}.json", docs / f"benchmark-{name}.md"
    write_atomically(data, json.dumps(record, indent=1).encode())
    write_atomically(page, benchmark_page(record).encode())
    every = data.with_name(f"{name}-units.json")
    write_atomically(every, json.dumps(units, separators=(",", ":")).encode())
    return data, every, page
