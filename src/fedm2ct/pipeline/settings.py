"""The benchmark's settings: files of the package in, a run's configuration out.

A setting says who has which protocol and which patients; a size says how large all is. Both are
TOML files in ``fedm2ct/settings``.
"""

import difflib
import math
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from fedm2ct.config import ConfigError, RunConfig, ScansConfig, SiteConfig, parse_config
from fedm2ct.data.sites import split_reference
from fedm2ct.physics.protocols import get_protocol, protocol_to_dict
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.scan_folder import assign, patients_in

SETTINGS = ("multi-vendor", "all-in-one", "hybrid", "unseen")
SIZES = ("tiny", "small", "full")
FEWEST_VIEWS = 8
_LENGTHS = (
    "pitch_mm",
    "offset_mm",
    "source_to_isocentre_mm",
    "source_to_detector_mm",
    "pixel_mm",
)
_SIZE_FIELDS = ("views", "site_slices", "test_slices", "validation_slices", "meta_slices")


@dataclass(frozen=True)
class Setting:
    """A setting at a size.

    Attributes
    ----------
    name, size, title
        What it is.
    config
        The run: every method, the size's seeds, the test patients.
    validation
        The patients that tuning is scored on; none of them is in `config`.
    newcomer
        The site that joins after the training; None where there is none.
    added
        What else the command line says: whose scans, and whose tuned options; empty where nothing.
    tuned_as
        The setting whose tuning is used where there is no file of its own; usually itself.
    """

    name: str
    size: str
    title: str
    config: RunConfig
    validation: ScansConfig
    newcomer: SiteConfig | None
    added: str = ""
    tuned_as: str = ""

    @property
    def command(self) -> str:
        """The command that runs it."""
        return f"fedm2ct benchmark {self.name} --size {self.size}{self.added}"

    def chosen(self, methods: Sequence[str] | None, seeds: Sequence[int] | None) -> "Setting":
        """Return the setting with some methods and seeds; None: as they are.

        Raises
        ------
        ConfigError
            When there is none of one, or one is named twice.
        """
        data = self.config.model_dump()
        data["methods"] = data["methods"] if methods is None else list(methods)
        data["seeds"] = data["seeds"] if seeds is None else list(seeds)
        return replace(self, config=parse_config(data, self.name))

    def with_options(self, options: Mapping[str, Mapping[str, Any]], source: str = "") -> "Setting":
        """Return the setting with methods' own options replaced, by method.

        `source`, the setting by default, is for errors.

        Raises
        ------
        ConfigError
            When a method has no such option.
        """
        return replace(self, config=with_options(self.config, options, source or self.name))


def with_options(
    config: RunConfig, options: Mapping[str, Mapping[str, Any]], source: str
) -> RunConfig:
    """Return a configuration with methods' own options replaced; `source` is for errors."""
    data = config.model_dump()
    for method, values in options.items():
        table = data["fedm2ct"] if method == "fedm2ct" else data["method"].setdefault(method, {})
        table.update(values)
    return parse_config(data, source)


def load_setting(
    name: str,
    size: str,
    scans: Path | None = None,
    *,
    roles: Mapping[str, int] | None = None,
    phantoms: bool = False,
) -> Setting:
    """Read a setting at a size.

    Parameters
    ----------
    name, size
        See `SETTINGS` and `SIZES`.
    scans
        Folder of more patients, see `fedm2ct.pipeline.scan_folder`.
    roles
        How many of them are for ``validation`` and for ``test``; the setting's numbers by default.
    phantoms
        Put analytic phantoms in place of the sample scans, which then need not be fetched.

    Raises
    ------
    FedM2CTError
        When there is no such setting or size, the folder has no scans, or there is no folder of
        which `roles` counts patients.
    """
    if roles and scans is None:
        option = f"--{next(iter(roles))}-patients"
        raise ConfigError(f"{option} counts patients of --scans; add --scans DIR, or leave it out")
    data = _read(known_name("setting", name, SETTINGS))
    sizes = _read("sizes")
    own = data.pop("sizes", {}).get(known_name("size", size, SIZES), {})
    measures = _merged(sizes[size], own)
    places = {field: measures.pop(field) for field in _SIZE_FIELDS}
    title, more, newcomer = data.pop("title"), data.pop("more"), data.pop("newcomer", None)
    seen, tuned_as = data.pop("field_of_view_mm", None), data.pop("tuned_as", name)
    if scans is not None:
        _add_patients(data, scans, {**more, **(roles or {})})
    sites = [*data["sites"], *([newcomer] if newcomer else [])]
    for site in sites:
        site["slices"] = places["site_slices"]
        site["protocol"] = resolved_protocol(
            site["protocol"], measures["image_size"], places["views"], seen
        )
    for role in ("test", "validation", "meta"):
        data[role]["slices"] = places[f"{role}_slices"]
    if phantoms:
        _use_phantoms([*sites, data["test"], data["validation"], data["meta"]])
    validation = ScansConfig(**data.pop("validation"))
    whole = {"name": f"{name}-{size}", "methods": list(ALL_METHODS), **data, **measures}
    config = parse_config(whole, f"setting {name!r}")
    joining = SiteConfig(**newcomer) if newcomer else None
    numbers = "".join(f" --{role}-patients {number}" for role, number in (roles or {}).items())
    added = "" if scans is None else f" --scans DIR{numbers}"
    added += " --phantoms" if phantoms else ""
    return Setting(name, size, title, config, validation, joining, added, tuned_as)


def resolved_protocol(
    name: str, size: int, views: float, field_of_view_mm: float | None = None
) -> dict[str, Any]:
    """Return a built-in protocol as a table that a run can scale to an image size.

    The dose is such that FBP's noise in a pixel is what it is at the protocol's own size: its
    variance goes with the inverse of views, of photons a bin and of the bin's width squared, and
    `Protocol.scaled` gives a wider bin more photons.

    Parameters
    ----------
    name
        Name of the protocol.
    size
        Rows and columns of the run's images.
    views
        Factor of its number of views.
    field_of_view_mm
        Scale all of its lengths alike, to this field of view; None: leave them.
    """
    protocol = get_protocol(name)
    found = protocol_to_dict(protocol)
    found["views"] = max(FEWEST_VIEWS, round(found["views"] * views))
    dose = (size / protocol.grid.rows) ** 3 * protocol.geometry.n_views / found["views"]
    found["photons"] *= dose
    found["electronic_noise"] *= math.sqrt(dose)
    if field_of_view_mm is not None:
        growth = field_of_view_mm / protocol.grid.field_of_view_mm
        found |= {field: found[field] * growth for field in _LENGTHS if field in found}
    return found


def short_names(scans: Sequence[str]) -> list[str]:
    """Return scans by the end of their paths, for records: folders are a machine's own."""
    return ["/".join(Path(scan).parts[-2:]) if Path(scan).is_absolute() else scan for scan in scans]


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's plain values with scans named by `short_names`, in place."""
    for role in [*config["sites"], config["test"], config["meta"]]:
        role["scans"] = short_names(role["scans"])
    return config


def known_name(what: str, name: str, names: Sequence[str]) -> str:
    """Return the name of one thing of a kind.

    Raises
    ------
    ConfigError
        When there is none of that name; it says which is meant.
    """
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
        raise ConfigError(f"there is no {what} {name!r}; {remedy}")
    return name


def _read(name: str) -> dict[str, Any]:
    text = files("fedm2ct").joinpath("settings", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for field, value in changes.items():
        merged[field] = _merged(base.get(field, {}), value) if isinstance(value, dict) else value
    return merged


def _add_patients(data: dict[str, Any], folder: Path, more: Mapping[str, int]) -> None:
    """Give the patients of a folder their roles, beside the setting's own; say if they are few."""
    patients, asked = patients_in(folder), more["validation"] + more["test"]
    found = assign(patients, more["validation"], more["test"], len(data["sites"]))
    if len(patients) < asked:
        warnings.warn(
            f"{folder}: holds {len(patients)} patients where {asked} are asked for: "
            f"{len(found.validation)} of {more['validation']} for validation, {len(found.test)} of "
            f"{more['test']} for the test, none for the sites (--validation-patients, "
            "--test-patients)",
            stacklevel=2,
        )
    data["validation"]["scans"] += found.validation
    data["test"]["scans"] += found.test
    for site, scans in zip(data["sites"], found.sites, strict=True):
        site["scans"] += scans


def _use_phantoms(roles: Sequence[dict[str, Any]]) -> None:
    """Replace every scan by a phantom: parts of one scan become parts of one phantom."""
    numbers: Iterator[int] = count(1)
    phantoms: dict[str, str] = {}
    for role in roles:
        replaced = []
        for name, (part, parts) in map(split_reference, role["scans"]):
            phantom = phantoms.setdefault(name, f"phantom-{next(numbers)}")
            replaced.append(phantom if parts == 1 else f"{phantom}@{part}/{parts}")
        role["scans"] = replaced
