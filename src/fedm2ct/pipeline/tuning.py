"""Tuning: each method's own options, searched with the same budget on validation patients.

A trial is a unit of work like any other, whose test patients are the setting's validation patients:
the benchmark's test patients are not even read. The first trial has the default options. The next
ones are spread over the ranges, so that a small budget looks above and below the defaults; what is
left of the budget is optuna's TPE. Options that the benchmark uses already, of an earlier search,
are tried besides. The best trial replaces what is in use if it is better by more than noise. All of
it is under fixed seeds: broken off, a search goes through its finished trials again without
training, and on to the same end.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import qmc

from fedm2ct.config import ConfigError, RunConfig, parse_config
from fedm2ct.data.sites import TEST
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, run_jobs
from fedm2ct.files import write_atomically
from fedm2ct.learning.seeds import derive_seed
from fedm2ct.learning.trainer import DivergedError
from fedm2ct.pipeline.notices import warnings_to
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.provenance import provenance
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.search_spaces import SPACES
from fedm2ct.pipeline.settings import Setting, short_names, with_options
from fedm2ct.pipeline.summary import read_result
from fedm2ct.pipeline.train import check_pairs, slices_on_disk
from fedm2ct.pipeline.tuned import Tuned, read_record
from fedm2ct.pipeline.unit import is_finished, run_unit, unit_folder

if TYPE_CHECKING:
    import optuna

Event = dict[str, Any]
Emit = Callable[[Event], None]
Trial = dict[str, Any]
TUNING_SEED = 1000
"""Seed of the trials: none that a size's benchmark uses."""
SEARCH_SEED = 0
_SPREAD = 3
"""Trials that are spread over the ranges, after that of the defaults."""
MARGIN_DB = 0.1
"""What a trial must gain over the options in use to replace them.

Less is within noise: the default options of ten methods, trained on CPUs of two kinds for four
rounds of `all-in-one`, scored 0.05 dB apart (standard deviation; docs/benchmark.md).
"""


def tune(
    setting: Setting,
    methods: Sequence[str],
    budget: int,
    out: Path,
    workers: int,
    on_event: Emit,
    rounds: int | None = None,
    in_use: Tuned | None = None,
) -> dict[str, Any]:
    """Search every method's options; write ``tuned.json`` and return what it holds.

    Methods of an earlier call that had the same budget and rounds stay in it. A trial that diverges
    has no score and cannot be chosen.

    Parameters
    ----------
    setting
        The setting.
    methods
        Names with an entry in `SPACES`.
    budget
        Trials for each method, the defaults among them.
    out
        Folder to write.
    workers
        Methods tuned side by side.
    on_event
        Called with every event; ``trial`` says that one is done.
    rounds
        Rounds of a trial; None: the setting's.
    in_use
        Options to be replaced; None, or a method that it lacks: the defaults.

    Raises
    ------
    FedM2CTError
        When a method has nothing to tune, optuna is not installed, the folder holds a tuning of
        another kind, another command is at work in it, a trial fails, or the training diverges
        with all options.
    """
    for method in methods:
        if method not in SPACES:
            raise ConfigError(
                f"{method!r} has no options to tune; those that have are {', '.join(SPACES)}"
            )
    _optuna()
    check_pairs(setting.config)
    config = validation_config(setting, rounds)
    length = config.training.rounds
    in_use = in_use or Tuned()
    with (
        alone_in(out),
        warnings_to(lambda text: on_event({"event": "warning", "reason": text})),
    ):
        before = _tuned_before(out / "tuned.json", _record(setting, budget, length, {}, []))
        cohort = read_cohort(config, lambda text: on_event({"event": "note", "text": text}))
        with slices_on_disk(cohort, out / ".slices") as slices:
            jobs = [
                Job(
                    method,
                    tune_method,
                    {
                        "config": config.model_dump(mode="json"),
                        "method": method,
                        "in_use": defaults(config, method) | in_use.options.get(method, {}),
                        "budget": budget,
                        "folder": str(out / "trials" / method),
                        "cohort": str(slices),
                    },
                )
                for method in methods
            ]
            found = run_jobs(jobs, workers, on_event)
        patients = {selection.patient for selection in cohort.split[TEST]}
        record = _record(
            setting,
            budget,
            length,
            {**before.get("methods", {}), **found},
            sorted(patients.union(before.get("patients", ()), in_use.patients)),
        )
        write_atomically(out / "tuned.json", json.dumps(record, indent=1).encode())
    return record


def validation_config(setting: Setting, rounds: int | None = None) -> RunConfig:
    """Return the setting's run, tested on its validation patients; `rounds` may shorten it."""
    data = setting.config.model_dump(mode="json")
    if rounds is not None:
        data["training"]["rounds"] = rounds
    data["test"] = setting.validation.model_dump(mode="json")
    return parse_config({**data, "seeds": [TUNING_SEED]}, setting.name)


def tune_method(
    config: dict[str, Any],
    method: str,
    in_use: dict[str, Any],
    budget: int,
    folder: str,
    cohort: str,
    on_event: Emit,
) -> dict[str, Any]:
    """Search one method's options; plain values in and out, for a process of its own."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = parse_config(config)

    def tried(values: dict[str, Any], name: str, title: str) -> Trial:
        score = _score(base, method, values, Path(folder) / name, cohort, on_event)
        on_event({"event": "trial", "title": title, "values": values, "psnr_db": score})
        return {"values": values, "psnr_db": score}

    sampler = optuna.samplers.TPESampler(seed=SEARCH_SEED, n_startup_trials=1 + _SPREAD)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values in (defaults(base, method), *spread(method, min(_SPREAD, budget - 1))):
        study.enqueue_trial(values)
    trials = []
    for number in range(budget):
        trial = study.ask()
        values = {name: _suggested(trial, method, name) for name in SPACES[method]}
        trials.append(tried(values, f"trial-{number}", f"trial {number + 1} of {budget}"))
        score = trials[-1]["psnr_db"]
        state = optuna.trial.TrialState.FAIL if score is None else None
        study.tell(trial, score, state=state)
    known = next((entry for entry in trials if entry["values"] == in_use), None)
    present = known or tried(in_use, "in-use", "options in use")
    return {**chosen(present, trials), "in_use": present, "trials": trials}


def chosen(present: Trial, trials: Sequence[Trial]) -> Trial:
    """Return the best of the trials if it gains more than `MARGIN_DB`, else what is in use.

    Raises
    ------
    FedM2CTError
        When none of them has a score.
    """
    scored = [entry for entry in (*trials, present) if entry["psnr_db"] is not None]
    if not scored:
        raise FedM2CTError(
            "the training has diverged with all options that were tried; lower the learning rate "
            "(training.learning_rate, training.projection_learning_rate)"
        )
    best = max(scored, key=lambda entry: entry["psnr_db"])
    reached = present["psnr_db"]
    return best if reached is None or best["psnr_db"] > reached + MARGIN_DB else present


def defaults(config: RunConfig, method: str) -> dict[str, Any]:
    """Return the present values of a method's tunable options."""
    table = config.fedm2ct if method == "fedm2ct" else getattr(config.method, method)
    return {name: getattr(table, name) for name in SPACES[method]}


def spread(method: str, number: int) -> list[dict[str, Any]]:
    """Return options over all of a method's ranges: a Latin hypercube, of each method its own.

    Of each range, on its scale, every one of `number` equal parts has one value.
    """
    space = SPACES[method]
    draw = np.random.default_rng(derive_seed(SEARCH_SEED, method, "spread"))
    points = qmc.LatinHypercube(len(space), rng=draw).random(number)
    return [
        {name: where.at(float(u)) for (name, where), u in zip(space.items(), point, strict=True)}
        for point in points
    ]


def _suggested(trial: "optuna.Trial", method: str, name: str) -> float | int:
    where = SPACES[method][name]
    if where.whole:
        return int(trial.suggest_int(name, int(where.low), int(where.high)))
    return float(trial.suggest_float(name, where.low, where.high, log=where.log))


def _score(
    base: RunConfig,
    method: str,
    values: dict[str, Any],
    folder: Path,
    cohort: str,
    on_event: Emit,
) -> float | None:
    """Run a trial, unless it is done; return the mean validation PSNR over sites and patients.

    None where the training has diverged.
    """
    config = with_options(base, {method: values}, f"trial of {method}")
    unit = unit_folder(folder, method, TUNING_SEED)
    if not is_finished(config, method, unit):
        plain = config.model_dump(mode="json")
        try:
            run_unit(plain, method, TUNING_SEED, str(folder), cohort, True, on_event)
        except DivergedError as error:
            on_event({"event": "warning", "reason": f"{method} with {values}: {error}"})
            return None
    for bulky in ("checkpoints", "sites"):
        shutil.rmtree(unit / bulky, ignore_errors=True)
    by_site = []
    for outputs in read_result(folder, method, TUNING_SEED).values():
        scores = outputs[""]
        patients = np.array(scores["patients"])
        psnr = np.asarray(scores["psnr_db"])
        by_site.append(np.mean([psnr[patients == name].mean() for name in set(patients)]))
    return float(np.mean(by_site))


def _record(
    setting: Setting, budget: int, rounds: int, found: dict[str, Any], patients: list[str]
) -> dict[str, Any]:
    return {
        "setting": setting.name,
        "size": setting.size,
        "budget": budget,
        "rounds": rounds,
        "search": f"defaults, {_SPREAD} trials spread over the ranges, then optuna "
        f"{_optuna().__version__}, TPE, seed {SEARCH_SEED}; trials' seed "
        f"{TUNING_SEED}; mean PSNR over sites and validation patients; what is in use stays where "
        f"nothing gains more than {MARGIN_DB} dB",
        "validation": {
            "scans": short_names(setting.validation.scans),
            "slices": setting.validation.slices,
        },
        "patients": patients,
        **provenance(),
        "methods": found,
    }


def _tuned_before(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier call of the same kind as the record has tuned; nothing if none has."""
    if not path.exists():
        return {}
    before = read_record(path)
    alike = ("setting", "size", "budget", "rounds", "search", "validation")
    if any(before.get(name) != record[name] for name in alike):
        raise FedM2CTError(
            f"{path}: holds a tuning of another kind (setting, size, budget, rounds, search or "
            "patients); choose another --out folder"
        )
    return before


def _optuna() -> Any:  # noqa: ANN401 - a module
    try:
        import optuna
    except ImportError:
        raise FedM2CTError(
            "tuning needs optuna: install it with pip install 'fedm2ct[tune]'"
        ) from None
    return optuna
