"""A unit of work in Flower's simulation: the sites of a configuration as virtual nodes."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fedm2ct.config import RunConfig, parse_config
from fedm2ct.data.sites import META, Split
from fedm2ct.deployment.cohorts import tasks_without_slices
from fedm2ct.deployment.federation_file import NOT_DEPLOYED
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.protection import build_halves
from fedm2ct.federation.remote_site import RemoteSite
from fedm2ct.federation.run import RunResult
from fedm2ct.pipeline.cohort_files import store_cohort, stored_cohort
from fedm2ct.pipeline.fingerprints import unit_fingerprint
from fedm2ct.pipeline.prepare import Cohort, site_tasks


def train_simulated(
    config: RunConfig,
    cohort: Cohort,
    method: str,
    seed: int,
    folder: Path,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
) -> RunResult:
    """Train a method over virtual sites; `folder` becomes a unit's, as of ``fedm2ct train``.

    Raises
    ------
    FedM2CTError
        If the run cannot be carried out.
    """
    from fedm2ct.federation.simulation import run_in_simulation

    if method in NOT_DEPLOYED:
        raise FedM2CTError(f"{method!r} cannot run over virtual sites ({NOT_DEPLOYED[method]})")
    slices = folder / ".slices"
    store_cohort(cohort, slices)
    tasks = tasks_without_slices(cohort)
    halves = build_halves(method, Setup(config, tasks, seed, cohort.public()))
    find = functools.partial(
        virtual_site, config.model_dump_json(), str(slices), method, seed, str(folder)
    )
    return run_in_simulation(
        halves.server,
        find,
        list(cohort.protocols),
        config.training.rounds,
        folder,
        resume=False,
        seed=seed,
        fingerprint=unit_fingerprint(config, method),
        on_event=on_event,
    )


@functools.lru_cache(maxsize=64)
def virtual_site(
    config: str, slices: str, method: str, seed: int, folder: str, name: str
) -> RemoteSite:
    """Build a site in one of Ray's processes; it stays there for later rounds."""
    torch.set_num_threads(1)
    parsed = parse_config(json.loads(config))
    whole = stored_cohort(parsed, Path(slices))
    roles = {role: whole.split[role] for role in (name, META)}
    own = Cohort(whole.scans, Split(roles), {name: whole.protocols[name]}, whole.unpaired)
    meta = parsed.meta.model_copy(update={"source": "none"})  # the server's part is not built here
    local = parsed.model_copy(update={"meta": meta})
    tasks, elsewhere = site_tasks(own, seed), tuple(whole.protocols.values())
    setup = Setup(local, tasks, seed, own.public(), elsewhere=elsewhere)
    client = build_halves(method, setup).clients[name]
    place = Path(folder) / "sites" / name
    return RemoteSite(name, client, place, RunIdentity(unit_fingerprint(parsed, method), seed))
