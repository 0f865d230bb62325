"""Does a method show small lesions? Discs planted into a finished run's test slices."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedm2ct.config import RunConfig
from fedm2ct.data.lesions import Lesion, coverage, plant
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import PairedData
from fedm2ct.errors import FedM2CTError
from fedm2ct.evaluation.lesions import SOFT_TISSUE_HU, places_mm, probe, recovered, ring_mm
from fedm2ct.files import read_table, write_atomically
from fedm2ct.model.start import starts_kept_in
from fedm2ct.physics.protocols import Protocol, protocol_from_dict
from fedm2ct.pipeline.assess import HuArray, Reconstructor, reconstruct, to_hu
from fedm2ct.pipeline.conventional import ALL_METHODS
from fedm2ct.pipeline.fingerprints import test_fingerprint
from fedm2ct.pipeline.manifest import (
    chosen_seed,
    config_of,
    read_manifest,
)
from fedm2ct.pipeline.prepare import acquire_tests, load_any
from fedm2ct.pipeline.provenance import versions
from fedm2ct.pipeline.settings import known_name
from fedm2ct.pipeline.site_files import scan_hash
from fedm2ct.pipeline.summary import read_result
from fedm2ct.pipeline.unit import reconstructors_of, stored_result, unit_folder

DIAMETERS_MM = (6.0, 10.0)
CONTRASTS_HU = (-40.0, 40.0)
WAYS = ("recovered", "direct")
"""By the difference with and without the lesion, and directly: `evaluation.lesions.recovered`."""

Progress = Callable[[int, int, str], None]
_FILE = "lesions.json"


def lesion_test(
    run: Path,
    *,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    contrasts_hu: Sequence[float] = CONTRASTS_HU,
    seed: int | None = None,
    methods: Sequence[str] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Plant lesions into every test slice at every site, reconstruct, and write ``lesions.json``.

    Each slice holds a lesion of each diameter and contrast, if there is room.

    Parameters
    ----------
    run
        Folder of a finished run.
    diameters_mm, contrasts_hu
        The lesions.
    seed
        The seed whose noise and models are used; None: the run's first.
    methods
        Which methods; None: all of the run, or, of a seed of an earlier call, those finished then.
    progress
        Takes the number of reconstructions done, their total, and what is at work.

    Raises
    ------
    FedM2CTError
        When a method is not known or not finished, a test scan is not what it was, or no slice has
        room.
    """
    config, manifest = config_of(run), read_manifest(run)
    seed, known = chosen_seed(config, run, seed)
    methods = known if methods is None else methods
    if not methods:
        raise FedM2CTError("--methods names no method; leave it out for all of the run's")
    for method in methods:
        read_result(run, known_name("method", method, ALL_METHODS), seed)
    units = {method: _unit(run, method, seed) for method in methods}
    protocols = {n: protocol_from_dict(p) for n, p in manifest["protocols"].items()}
    kinds = list(product(diameters_mm, contrasts_hu))
    tests = _test_slices(manifest)
    sites: dict[str, Any] = {}
    scores: dict[str, dict[str, Any]] = {method: {} for method in methods}
    steps, total = count(1), len(protocols) * len(methods)
    for site, protocol in protocols.items():
        data, patients = acquire_tests(tests, protocol, site, seed)
        lesions = choose_lesions(to_hu(data.truth), protocol, kinds)
        if not lesions:
            raise FedM2CTError(
                f"site {site}: no test slice has room in soft tissue for a lesion of "
                f"{max(diameters_mm):g} mm; take smaller ones"
            )
        sites[site] = _described(lesions, patients, protocol)
        planted = plant(data, lesions, protocol)
        with TemporaryDirectory() as folder, starts_kept_in(Path(folder)):
            for method in methods:
                reconstructor = reconstructors_of(protocols, run, method, seed, site)[""]
                values = contrasts(reconstructor, data, planted, lesions, protocol)
                scores[method][site] = _of_site(lesions, values)
                progress(next(steps), total, f"site {site}, {method}")
    result = {
        "methods": {m: {**_of_method(table), "unit": units[m]} for m, table in scores.items()},
        "sites": sites,
        "diameters_mm": list(diameters_mm),
        "contrasts_hu": list(contrasts_hu),
        "soft_tissue_hu": list(SOFT_TISSUE_HU),
        "seed": seed,
        "tested": test_fingerprint(config),
        "versions": versions(),
    }
    write_atomically(run / _FILE, json.dumps(result, indent=1).encode())
    return result


def _described(
    lesions: Sequence[Lesion], patients: Sequence[str], protocol: Protocol
) -> dict[str, Any]:
    """Return a site's lesions, each with its patient, as they are stored."""
    described = [{**asdict(x), "patient": patients[x.slice_index]} for x in lesions]
    return {"pixel_mm": protocol.grid.pixel_mm, "lesions": described}


def read_lesions(config: RunConfig, run: Path) -> dict[str, Any] | None:
    """Return what `lesion_test` wrote; None without it.

    And None if it is of other test patients, or of models that are no longer those of the run.
    """
    result = read_table(run / _FILE)
    if result.get("tested") != test_fingerprint(config) or trained_since(result, run):
        return None
    return result


def trained_since(result: Mapping[str, Any], run: Path) -> list[str]:
    """Return the methods whose models are others than those that lesions were planted for.

    What an older version wrote does not say of which it is, and counts as of the run's.
    """
    return [
        method
        for method, found in result["methods"].items()
        if "unit" in found and found["unit"] != _unit(run, method, result["seed"])
    ]


def _unit(run: Path, method: str, seed: int) -> dict[str, Any]:
    """Return what tells a unit's models from others: their training, when and where."""
    stored = stored_result(unit_folder(run, method, seed))
    return {name: stored.get(name) for name in ("trained", "from")}


def _test_slices(manifest: Mapping[str, Any]) -> list[tuple[Scan, Sequence[int]]]:
    """Return the run's test scans and slices, read again."""
    tests = []
    for entry in manifest["slices"]["test"]:
        scan = load_any(entry["scan"])
        if scan_hash(scan) != manifest["scans"][entry["scan"]]["sha256"]:
            raise FedM2CTError(f"{entry['scan']}: this scan has changed since the run; put it back")
        tests.append((scan, entry["slices"]))
    return tests


def choose_lesions(
    truth_hu: HuArray, protocol: Protocol, kinds: Sequence[tuple[float, float]]
) -> list[Lesion]:
    """Place a lesion of each kind (diameter in mm, contrast in HU) in every slice, if it has room.

    All kinds claim the room of the largest. From slice to slice they take turns at the places, of
    which the most even comes first.
    """
    grid, geometry = protocol.grid, protocol.geometry
    _, reach = ring_mm(max(diameter for diameter, _ in kinds), grid.pixel_mm)
    within = min(min(grid.shape) * grid.pixel_mm / 2, geometry.covered_radius_mm)
    lesions = []
    for index, image in enumerate(truth_hu):
        places = places_mm(image, grid.pixel_mm, reach, len(kinds), within)
        for turn, (x, y) in enumerate(places, start=index):
            lesions.append(Lesion(index, x, y, *kinds[turn % len(kinds)]))
    return lesions


def contrasts(
    reconstructor: Reconstructor,
    data: PairedData,
    planted: PairedData,
    lesions: Sequence[Lesion],
    protocol: Protocol,
) -> list[tuple[float, float]]:
    """Return each lesion's recovered contrast; see `fedm2ct.evaluation.lesions.recovered`."""
    images = [reconstruct(reconstructor, d.projections) for d in (planted, data)]
    truths = [to_hu(d.truth) for d in (planted, data)]
    pixel = protocol.grid.pixel_mm
    values = []
    for x in lesions:
        disc = coverage(x, protocol.grid).numpy()
        where = probe(disc, x.x_mm, x.y_mm, x.diameter_mm, pixel)
        values.append(recovered(where, *(stack[x.slice_index] for stack in (*images, *truths))))
    return values


def _of_site(lesions: Sequence[Lesion], values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return a method's contrasts at a site in percent: all, by kind, and one number a lesion."""
    percent = dict(zip(WAYS, (100.0 * np.asarray(values)).T, strict=True))
    kinds = [f"{x.diameter_mm:g} mm, {x.contrast_hu:+g} HU" for x in lesions]
    by_kind = {
        kind: {way: _spread(percent[way][[k == kind for k in kinds]]) for way in WAYS}
        for kind in sorted(set(kinds))
    }
    all_of_it = {way: _spread(percent[way]) for way in WAYS}
    return {
        **all_of_it,
        "by_kind": by_kind,
        "percent": {way: percent[way].round(3).tolist() for way in WAYS},
    }


def _spread(percent: NDArray[np.float64]) -> dict[str, float | None]:
    sd = float(percent.std(ddof=1)) if len(percent) > 1 else None
    return {"mean": float(percent.mean()), "sd": sd, "n": len(percent)}


def _of_method(sites: dict[str, Any]) -> dict[str, Any]:
    mean = {way: float(np.mean([s[way]["mean"] for s in sites.values()])) for way in WAYS}
    return {"sites": sites, "mean": mean}
