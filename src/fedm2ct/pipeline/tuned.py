"""Tuned options: where they are kept, and how they are read and joined."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.settings import Setting

Options = dict[str, dict[str, Any]]
_REMEDY = (
    "give --validation-patients and --test-patients as for the tuning, options of "
    "`fedm2ct tune --defaults` with --tuned, or --defaults"
)


@dataclass(frozen=True)
class Tuned:
    """Tuned options by method, and the patients that they were tuned on."""

    options: Options = field(default_factory=dict)
    patients: Sequence[str] = ()


def packaged_name(setting: str, size: str) -> str:
    """Return the name of the package's file of tuned options, below ``fedm2ct/settings/tuned``."""
    return f"{setting}-{size}.json"


def read_tuned(setting: Setting, path: Path | None = None) -> Tuned:
    """Return tuned options; without a path the package's, none where it has none.

    Those of the setting itself come before those of the setting that it is `tuned_as`.

    Raises
    ------
    FedM2CTError
        When the file cannot be read or is of another setting. Whether its patients may be tested is
        for `check_test_patients` to judge.
    """
    if path is None:
        folder = files("fedm2ct").joinpath("settings", "tuned")
        names = [packaged_name(name, setting.size) for name in (setting.name, setting.tuned_as)]
        packaged = [file for file in map(folder.joinpath, names) if file.is_file()]
        if not packaged:
            return Tuned()
        record = json.loads(packaged[0].read_text(encoding="utf-8"))
    else:
        record = read_record(path)
        if record["setting"] not in (setting.name, setting.tuned_as):
            raise FedM2CTError(f"{path}: was tuned for {record['setting']}, not {setting.name}")
    return Tuned(values_of(record), record["patients"])


def check_test_patients(scans: Iterable[tuple[str, str]], tuned_on: Sequence[str]) -> None:
    """Refuse to test a patient that options were tuned on, whatever scan it is of.

    Parameters
    ----------
    scans
        Test scans, each with its patient.
    tuned_on
        Patients.

    Raises
    ------
    FedM2CTError
        Naming the scan.
    """
    for scan, patient in scans:
        if patient in tuned_on:
            raise FedM2CTError(
                f"scan {scan}: options were tuned on its patient ({patient}), who would be tested; "
                + _REMEDY
            )


def read_record(path: Path) -> dict[str, Any]:
    """Read what `fedm2ct tune` has written.

    Raises
    ------
    FedM2CTError
        When there is none or it is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(record)
    except OSError as error:
        raise FedM2CTError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise FedM2CTError(
            f"{path}: is not a record of tuning ({fault}); give a tuned.json that `fedm2ct tune` "
            "wrote, or remove it to tune anew"
        )
    return record


def _fault(record: object) -> str | None:
    """Say which field of a record is not as it should be."""
    table = record if isinstance(record, dict) else {}
    if not isinstance(table.get("setting"), str):
        return "field 'setting' is missing or no name"
    patients = table.get("patients")
    if not isinstance(patients, list) or not all(isinstance(name, str) for name in patients):
        return "field 'patients' is missing or no list of names"
    if not isinstance(table.get("methods"), dict):
        return "field 'methods' is missing or no table"
    for method, entry in table["methods"].items():
        values = entry.get("values") if isinstance(entry, dict) else None
        numbers = values.values() if isinstance(values, dict) else [None]
        if not all(isinstance(number, int | float) for number in numbers):
            return f"field 'methods.{method}.values' is missing or no table of numbers"
    return None


def values_of(record: Mapping[str, Any]) -> Options:
    """Return the best options of every method of a record."""
    return {method: dict(entry["values"]) for method, entry in record["methods"].items()}


def publish_tuned(record: Mapping[str, Any], checkout: Path) -> Path:
    """Write a record where the package of a checkout keeps it; return its path.

    Raises
    ------
    FedM2CTError
        When the folder is no checkout.
    """
    path = tuned_folder(checkout) / packaged_name(record["setting"], record["size"])
    write_atomically(path, json.dumps(record, indent=1).encode())
    return path


def tuned_folder(checkout: Path) -> Path:
    """Return where the package of a checkout keeps tuned options.

    Raises
    ------
    FedM2CTError
        When the folder is no checkout.
    """
    folder = checkout / "src" / "fedm2ct" / "settings"
    if not folder.is_dir():
        raise FedM2CTError(f"{checkout}: is no checkout (it has no src/fedm2ct/settings)")
    return folder / "tuned"
