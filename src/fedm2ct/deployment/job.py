"""The coordinator's half of a deployment: what Flower's server app runs, from files it finds here.

The bundle that Flower sends around names this code and holds nothing else. Which unit of work is
meant is the name of a job's file in the coordinator's folder; the public scans of the meta-set are
read from the coordinator's disk and never travel.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedm2ct.config import parse_config
from fedm2ct.deployment.cohorts import coordinator_cohort, tasks_without_slices
from fedm2ct.deployment.folders import FOLDER_VARIABLE, CoordinatorFolder
from fedm2ct.deployment.registry import registered_nodes
from fedm2ct.device import compute_device
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.protection import build_halves
from fedm2ct.federation.run import run_method
from fedm2ct.federation.runlog import RunLog
from fedm2ct.pipeline.fingerprints import unit_fingerprint
from fedm2ct.pipeline.run_lock import alone_in

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

_END_S = 60.0  # in which Flower ends a run that was stopped


def run_job(grid: "Grid", context: "Context") -> None:
    """Run the job that a run's configuration names.

    Raises
    ------
    FedM2CTError
        If there is no such job, an earlier one is at work in its folder, sites are missing, or the
        run cannot go on: it can be resumed.
    """
    root = os.environ.get(FOLDER_VARIABLE)
    if root is None:
        raise FedM2CTError(f"{FOLDER_VARIABLE} is not set: start with fedm2ct coordinator up")
    folder = CoordinatorFolder(Path(root))
    name = str(context.run_config["job"])
    try:
        job: dict[str, Any] = json.loads(folder.job(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FedM2CTError(f"job {name} has no file; start the run again") from None
    log = RunLog(folder.job_events(name))
    with alone_in(Path(job["folder"]), _END_S):  # the command that began an earlier job may be gone
        _federate(folder, job, grid, log)


def _federate(folder: CoordinatorFolder, job: dict[str, Any], grid: "Grid", log: RunLog) -> None:
    from fedm2ct.federation.remote_grid import Patience, RemoteGrid

    config, seed, settings = parse_config(job["config"]), int(job["seed"]), folder.settings()
    cohort = coordinator_cohort(config)
    tasks = tasks_without_slices(cohort)
    setup = Setup(config, tasks, seed, cohort.public(), compute_device())
    halves = build_halves(job["method"], setup)
    nodes = registered_nodes(folder)
    remote = RemoteGrid(
        grid,
        {nodes[name]: name for name in cohort.protocols},
        Patience(
            round_s=settings.round_timeout_s,
            begin_s=settings.wait_for_sites_s,
            minimum_sites=settings.minimum_sites,
        ),
        on_reply=lambda site, traffic: log.append(
            [{"event": "site", "site": site, "seconds": traffic.seconds}]
        ),
        warn=lambda text: log.append([{"event": "warning", "reason": text}]),
    )
    remote.await_sites()
    run_method(
        halves.server,
        {},
        config.training.rounds,
        Path(job["folder"]),
        resume=job["resume"],
        seed=seed,
        fingerprint=unit_fingerprint(config, job["method"]),
        on_event=lambda event: log.append([event]),
        grid=remote,
    )
