"""A benchmark's finished units in one file: a later call, on another machine, adds to them.

Of a unit there is what its row in a record is made from: scores by slice, costs by round, the
scores of a site that joined, and the fingerprints by which a call knows whether the unit is one of
its own. There is no model.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.fingerprints import test_fingerprint, unit_fingerprint
from fedm2ct.pipeline.newcomer import joined_fingerprint
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.settings import Setting
from fedm2ct.pipeline.unit import stored_result, unit_folder

FORMAT = 1
_DIGITS = 6
_BEGUN = ("result.json", "checkpoints", "sites")
"""A unit's folder with one of these is not written to."""
LEFT_OUT = ("dropped", "failed")
"""Events of a site whose round did not count."""
_KEPT = ("event", "round", "site", "seconds", "bytes_up", "bytes_down", "reason")
Places = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Where units were made, by method and seed."""


def packed(run: Path, finished: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return finished units as plain values; numbers have six significant digits.

    Parameters
    ----------
    run
        The folder of the units.
    finished
        Their seeds by method.
    """
    units = {
        f"{method}/{seed}": _rounded(_unit(unit_folder(run, method, seed)))
        for method, seeds in finished.items()
        for seed in seeds
    }
    return {"format": FORMAT, "units": units}


def _unit(folder: Path) -> dict[str, Any]:
    result = stored_result(folder)
    own = {site: {"": outputs[""]} for site, outputs in result["scores"].items()}
    log = RunLog(folder / "metrics.jsonl").read()
    rounds = [e for e in log if e.get("event") in ("round", *LEFT_OUT)]
    joined = folder / "newcomer.json"
    return {
        "result": {**result, "scores": own},
        "rounds": [{name: e[name] for name in _KEPT if name in e} for e in rounds],
        "newcomer": json.loads(joined.read_text(encoding="utf-8")) if joined.exists() else None,
    }


def places(
    run: Path, finished: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Return where every finished unit was made: day, commit and machine, by method and seed.

    A unit of a version that did not store it has an empty place.
    """
    return {
        method: {s: stored_result(unit_folder(run, method, s)).get("from", {}) for s in seeds}
        for method, seeds in finished.items()
    }


def origins(found: Places) -> list[dict[str, Any]]:
    """Return the distinct places, each with how many ``units`` it has; empty ones do not count."""
    made = [place for by_seed in found.values() for place in by_seed.values() if place]
    distinct = [place for k, place in enumerate(made) if place not in made[:k]]
    counted = [{**place, "units": made.count(place)} for place in distinct]
    return sorted(counted, key=lambda place: place["date"])


def timed_on(found: Places) -> dict[str, Any] | None:
    """Return the machine whose seconds count: that of most methods, the earliest of equal ones.

    Seconds of unlike machines have no mean. None stands for the units that do not say where they
    were made.
    """
    methods: dict[str, set[str]] = {}
    since: dict[str, str] = {}
    for method, by_seed in found.items():
        for place in by_seed.values():
            machine, date = json.dumps(place.get("machine"), sort_keys=True), place.get("date", "")
            methods.setdefault(machine, set()).add(method)
            since[machine] = min(since.get(machine, date), date)
    chosen = min(methods, key=lambda machine: (-len(methods[machine]), since[machine]))
    machine_of_most: dict[str, Any] | None = json.loads(chosen)
    return machine_of_most


def unpack(file: Path, run: Path, setting: Setting) -> Counter[str]:
    """Put the units that a setting would make alike into a run's folder, where it has none.

    Returns
    -------
    Counter
        How many were put there, under ``""``; how many were not, by the reason.

    Raises
    ------
    FedM2CTError
        When the file is none of `packed`'s, or another command is at work in the folder.
    """
    units, found = _units(file), Counter[str]()
    with alone_in(run):
        for method, seed, unit in units:
            folder = unit_folder(run, method, seed)
            reason = _unlike(setting, method, unit)
            if not reason and any((folder / name).exists() for name in _BEGUN):
                reason = "in the folder already, finished or begun"
            found[reason] += 1
            if reason:
                continue
            write_atomically(folder / "metrics.jsonl", _lines(unit["rounds"]))
            if unit["newcomer"] is not None:
                write_atomically(folder / "newcomer.json", json.dumps(unit["newcomer"]).encode())
            write_atomically(folder / "result.json", json.dumps(unit["result"]).encode())
    return found


def _unlike(setting: Setting, method: str, unit: Mapping[str, Any]) -> str:
    """Return what the setting would make of a unit otherwise; nothing where all is alike."""
    config, site, result = setting.config, setting.newcomer, unit["result"]
    if result.get("trained") != unit_fingerprint(config, method):
        return "trained on other scans or with other options"
    if result.get("tested") != test_fingerprint(config):
        return "scored on other test scans or otherwise"
    if site is not None:
        joined = (unit["newcomer"] or {}).get("joined")
        if joined != joined_fingerprint(config, site, method):
            return f"joined otherwise, or not at all, by site {site.name}"
    return ""


def _units(file: Path) -> list[tuple[str, int, dict[str, Any]]]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise FedM2CTError(f"{file}: has units in another format; run the benchmark anew")
        units = [(*_name(name), unit) for name, unit in stored["units"].items()]
        for _, _, unit in units:
            if (
                not {"result", "rounds", "newcomer"} <= unit.keys()
                or "scores" not in unit["result"]
            ):
                raise ValueError
    except OSError as error:
        raise FedM2CTError(f"{file}: cannot be read ({error.strerror}); check --restore") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FedM2CTError(
            f"{file}: holds no units of a benchmark; give --restore a file that --publish wrote"
        ) from None
    return units


def _name(text: str) -> tuple[str, int]:
    method, _, seed = text.partition("/")
    if method not in ALL_METHODS:
        raise ValueError
    return method, int(seed)


def _lines(events: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON values in, JSON values out
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return value
