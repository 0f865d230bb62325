"""A benchmark's finished units in one file: a later call, on another machine, adds to them.

Of a unit there is what its row in a record is made from: scores by slice, costs by round, the
scores of a site that joined, and the fingerprints by which a call knows whether the unit is one of
its own. There is no model.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.settings import ALL_METHODS
from fedm2ct.pipeline.unit import stored_result, unit_folder

FORMAT = 1
_DIGITS = 6
_COSTS = ("event", "round", "site", "seconds", "bytes_up", "bytes_down")


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
    rounds = [e for e in RunLog(folder / "metrics.jsonl").read() if e.get("event") == "round"]
    joined = folder / "newcomer.json"
    return {
        "result": {**result, "scores": own},
        "rounds": [{name: e[name] for name in _COSTS if name in e} for e in rounds],
        "newcomer": json.loads(joined.read_text(encoding="utf-8")) if joined.exists() else None,
    }


def origins(run: Path, finished: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return where finished units were made: day, commit, machine, and how many ``units``.

    Units of a version that did not store it are not counted.
    """
    results = (
        stored_result(unit_folder(run, m, s)) for m, seeds in finished.items() for s in seeds
    )
    places = [result["from"] for result in results if "from" in result]
    distinct = [place for k, place in enumerate(places) if place not in places[:k]]
    counted = [{**place, "units": places.count(place)} for place in distinct]
    return sorted(counted, key=lambda place: place["date"])


def timed_on(run: Path, finished: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """Return the machine whose seconds count: that of most methods, the earliest of equal ones.

    Seconds of unlike machines have no mean. None stands for the units that do not say where they
    were made.
    """
    methods: dict[str, set[str]] = {}
    since: dict[str, str] = {}
    for method, seeds in finished.items():
        for seed in seeds:
            place = stored_result(unit_folder(run, method, seed)).get("from", {})
            machine, date = json.dumps(place.get("machine"), sort_keys=True), place.get("date", "")
            methods.setdefault(machine, set()).add(method)
            since[machine] = min(since.get(machine, date), date)
    chosen = min(methods, key=lambda machine: (-len(methods[machine]), since[machine]))
    found: dict[str, Any] | None = json.loads(chosen)
    return found


def made_on(run: Path, method: str, seed: int) -> dict[str, Any] | None:
    """Return the machine that a finished unit was made on; None where the unit does not say."""
    found: dict[str, Any] = stored_result(unit_folder(run, method, seed)).get("from", {})
    return found.get("machine")


def unpack(file: Path, run: Path) -> int:
    """Put units into a run's folder where it has none; return how many were put there.

    A call then finds them finished if they were made as it would make them.

    Raises
    ------
    FedM2CTError
        When the file is none of `packed`'s.
    """
    put = 0
    for method, seed, unit in _units(file):
        folder = unit_folder(run, method, seed)
        if (folder / "result.json").exists():
            continue
        write_atomically(folder / "metrics.jsonl", _lines(unit["rounds"]))
        if unit["newcomer"] is not None:
            write_atomically(folder / "newcomer.json", json.dumps(unit["newcomer"]).encode())
        write_atomically(folder / "result.json", json.dumps(unit["result"]).encode())
        put += 1
    return put


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
