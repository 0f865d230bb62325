"""A run over a deployment: every method under every seed, one after the other, each resumable."""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fedm2ct
from fedm2ct.config import RunConfig
from fedm2ct.deployment.certificates import key_text, read_public_key
from fedm2ct.deployment.cohorts import coordinator_cohort
from fedm2ct.deployment.folders import CoordinatorFolder
from fedm2ct.deployment.registry import registered_keys, registered_nodes
from fedm2ct.deployment.unit_of_work import UnitOfWork, describe
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.control import Control, app_bundle
from fedm2ct.federation.runlog import RunLog
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.fingerprints import unit_fingerprint
from fedm2ct.pipeline.manifest import write_manifest
from fedm2ct.pipeline.run_lock import alone_in
from fedm2ct.pipeline.train import check_folder, check_names, check_pairs
from fedm2ct.pipeline.unit import unit_folder

Event = dict[str, Any]
_APPS = "fedm2ct.deployment.apps"
_LOOK_S = 0.5
_ASK_S = 2.0
_START_S = 60.0
_DEPLOYMENT = "deployment.json"


def train_deployed(
    folder: CoordinatorFolder,
    config: RunConfig,
    run: Path,
    *,
    resume: bool,
    on_event: Callable[[Event], None],
) -> None:
    """Run a federation's configuration over the connected sites.

    Parameters
    ----------
    folder
        The coordinator's folder; its services are up.
    config
        From `load_federation`.
    run
        The run's folder.
    resume
        Go on with the run in the folder from its last whole round.
    on_event
        Called with every event of every unit of work, to which ``"job"`` is added.

    Raises
    ------
    FedM2CTError
        If the coordinator is not up, a site is not registered, another command is at work in the
        run's folder, or a unit fails. The run can then be resumed.
    """
    run = run.absolute()
    check_names(config)
    check_pairs(config)
    with alone_in(run):
        check_folder(config, run, resume)
        keys = _keys(folder, config)
        cohort = coordinator_cohort(config)
        write_manifest(config, cohort, run)
        name = _run_name(config, run)
        address = f"127.0.0.1:{folder.settings().superlink_port}"
        with contextlib.closing(Control(address, folder.authority)) as control:
            _await_services(folder, config, control)
            for seed in config.seeds:
                for method in config.methods:
                    fingerprint = unit_fingerprint(config, method)
                    unit = describe(name, config, cohort.protocols, method, seed, fingerprint, keys)
                    _train_unit(folder, control, config, run, unit, resume, on_event)


def _keys(folder: CoordinatorFolder, config: RunConfig) -> dict[str, str]:
    """Return the sites' public keys as text; refuse sites without one."""
    names, files = [site.name for site in config.sites], registered_keys(folder)
    if missing := [name for name in names if name not in files]:
        raise FedM2CTError(
            f"{', '.join(missing)}: not registered; run fedm2ct coordinator register first"
        )
    return {name: key_text(read_public_key(files[name])) for name in names}


def _await_services(folder: CoordinatorFolder, config: RunConfig, control: Control) -> None:
    """Give the coordinator's services time to start and to tell Flower of the sites."""
    names = {site.name for site in config.sites}
    deadline = time.monotonic() + _START_S
    while True:
        try:
            known = {node.node_id for node in control.nodes()}
            nodes = registered_nodes(folder)
            if names <= nodes.keys() and {nodes[name] for name in names} <= known:
                return
            reason = "they do not register the sites"
        except FedM2CTError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise FedM2CTError(f"the coordinator's services are not ready: {reason}")
        time.sleep(_LOOK_S)


def _run_name(config: RunConfig, run: Path) -> str:
    """Return the run's name at the sites: a run that is started anew is another one to them."""
    path = run / _DEPLOYMENT
    if not path.exists():
        name = f"{config.name}-{secrets.token_hex(4)}"
        write_atomically(path, json.dumps({"name": name}).encode())
    return str(json.loads(path.read_text(encoding="utf-8"))["name"])


def _train_unit(
    folder: CoordinatorFolder,
    control: Control,
    config: RunConfig,
    run: Path,
    unit: UnitOfWork,
    resume: bool,
    on_event: Callable[[Event], None],
) -> None:
    """Train one method under one seed, unless that is done."""
    job = f"{unit.method}/seed-{unit.seed}"
    place = unit_folder(run, unit.method, unit.seed)
    if _is_done(place, config):
        on_event({"job": job, "event": "unit-done", "before": True})
        return
    name = f"{unit.run}.{unit.method}.{unit.seed}.{secrets.token_hex(3)}"
    description = {
        "config": config.model_dump(mode="json"),
        "method": unit.method,
        "seed": unit.seed,
        "folder": str(place),
        "resume": resume,
    }
    write_atomically(folder.job(name), json.dumps(description).encode(), mode=0o600)
    run_id = control.start_run(
        app_bundle(_APPS, fedm2ct.__version__), {"job": name, "unit": unit.to_json()}
    )
    try:
        for event in _follow(control, run_id, RunLog(folder.job_events(name))):
            on_event({"job": job, **event})
    except BaseException:  # whatever ends this command, nobody follows the run any more
        with contextlib.suppress(FedM2CTError):
            control.stop_run(run_id)
        raise
    on_event({"job": job, "event": "unit-done", "before": False})


def _is_done(place: Path, config: RunConfig) -> bool:
    """Return whether every site has taken the final parameters of a unit."""
    finished = {e["site"] for e in RunLog(place / "metrics.jsonl").read() if e["event"] == "finish"}
    return finished == {site.name for site in config.sites}


def _follow(control: Control, run_id: int, log: RunLog) -> Iterator[Event]:
    """Yield a run's events as they come, until it is finished.

    Raises
    ------
    FedM2CTError
        If it ends with an error.
    """
    told, asked, status = 0, 0.0, None
    while status is None or status.status != "finished":
        if time.monotonic() - asked > _ASK_S:
            status, asked = control.run_status(run_id), time.monotonic()
        events = log.read()
        yield from events[told:]
        told = len(events)
        time.sleep(_LOOK_S)
    if status.ended != "completed":
        raise FedM2CTError(f"the run has ended early: {status.details or status.ended}")
