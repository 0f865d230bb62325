"""A site that joins after the training: by its protocol alone, then with a few slices of its own.

With no slice, the site reconstructs with the federation's last shared network on its own FBP, or
the image that networks start from, prompted with its own protocol where the method has a prompt;
what a method does not share is as at the start (FBP, and networks that change nothing). A prompt
that the network has not been trained with is a guess, so where the server's public slices are part
of the method, the prompt is the one that does best on them, see `choose_prompt`. With n
slices it trains its own model on from there, alone, on its method's loss at a site; terms that pull
towards a federation are left out. All take the same number of steps, a quarter of the training's.
The slices are too few to hold any out: the round is chosen on those that are trained on, and on the
public ones where the method has them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedm2ct.config import ConfigError, RunConfig, SiteConfig, parse_config
from fedm2ct.device import compute_device
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.jobs import Job, run_jobs
from fedm2ct.federation.method import ClientHalf, State
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.pooled import MEMBER, PooledClient
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.federation.methods.site_client import SiteClient, parameters_of
from fedm2ct.federation.storage import RoundFiles, load_tensors
from fedm2ct.files import read_table, write_atomically
from fedm2ct.learning.losses import validation_psnr
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.slices import paired
from fedm2ct.learning.trainer import Loss, SiteTask, SiteTrainer, part_of
from fedm2ct.model.prompt import CONDITIONS
from fedm2ct.model.start import starts_kept_in
from fedm2ct.model.ts_iradonmap import TSiRadonMAP
from fedm2ct.physics.protocols import Protocol, protocol_from_dict
from fedm2ct.pipeline.assess import Reconstructor, assess
from fedm2ct.pipeline.cohort_files import stored_cohort
from fedm2ct.pipeline.conventional import CONVENTIONAL, choose, reconstructor_of
from fedm2ct.pipeline.fingerprints import test_fingerprint, unit_fingerprint
from fedm2ct.pipeline.manifest import read_manifest
from fedm2ct.pipeline.notices import warnings_to
from fedm2ct.pipeline.prepare import Cohort, acquire, acquire_tests, read_cohort
from fedm2ct.pipeline.site_files import Roles, read_roles, role_of
from fedm2ct.pipeline.train import slices_on_disk
from fedm2ct.pipeline.unit import unit_folder

Emit = Callable[[dict[str, Any]], None]
COUNTS = (0, 1, 5, 20)
"""Numbers of the newcomer's slices."""
SHARE_OF_ROUNDS = 0.25


def joined_config(config: RunConfig, newcomer: SiteConfig) -> RunConfig:
    """Return the run of the newcomer alone, with its share of the rounds."""
    data = config.model_dump(mode="json")
    data["sites"] = [newcomer.model_dump(mode="json")]
    data["training"]["rounds"] = max(1, round(SHARE_OF_ROUNDS * config.training.rounds))
    return parse_config(data, config.name)


def join_all(
    config: RunConfig, newcomer: SiteConfig, run: Path, workers: int, on_event: Emit
) -> None:
    """Let the newcomer join every finished unit of a run that it has not joined yet.

    Raises
    ------
    FedM2CTError
        When its patient was used in the training, or a unit fails.
    """
    waiting = [
        (method, seed)
        for seed in config.seeds
        for method in config.methods
        if not joined_scores(config, newcomer, method, unit_folder(run, method, seed))
    ]
    if not waiting:
        return
    cohort = read_cohort(joined_config(config, newcomer))
    _refuse_known(cohort, newcomer, read_roles(run, read_manifest(run)))
    with slices_on_disk(cohort, run / ".newcomer") as slices:
        common = {
            "config": config.model_dump(mode="json"),
            "newcomer": newcomer.model_dump(mode="json"),
            "run": str(run),
            "cohort": str(slices),
        }
        jobs = [
            Job(f"{method}/seed-{seed}", join_unit, {**common, "method": method, "seed": seed})
            for method, seed in waiting
        ]
        run_jobs(jobs, workers, on_event)


def _refuse_known(cohort: Cohort, newcomer: SiteConfig, roles: Roles) -> None:
    """Refuse patients of the run, by their pseudonyms and by the voxels."""
    for selection in cohort.split[newcomer.name]:
        if (role := role_of(cohort.scans[selection.scan], roles)) is not None:
            raise ConfigError(f"a patient of {newcomer.name!r}, which joins, is one of {role!r}")


def join_unit(
    config: dict[str, Any],
    newcomer: dict[str, Any],
    method: str,
    seed: int,
    run: str,
    cohort: str,
    on_event: Emit,
) -> None:
    """Score the newcomer with each number of slices; plain values in, ``newcomer.json`` out."""
    parsed, site = parse_config(config), SiteConfig(**newcomer)
    joined, folder = joined_config(parsed, site), unit_folder(Path(run), method, seed)
    scores = {}
    with (
        warnings_to(lambda text: on_event({"event": "warning", "reason": text})),
        starts_kept_in(Path(cohort) / "starts"),
    ):
        slices = stored_cohort(joined, Path(cohort))
        shared = {} if method in CONVENTIONAL else last_shared(folder)
        known = [protocol_from_dict(p) for p in read_manifest(Path(run))["protocols"].values()]
        tests = [(slices.scans[s.scan], s.slices) for s in slices.split["test"]]
        protocol = slices.protocols[site.name]
        data, patients = acquire_tests(tests, protocol, site.name, seed)
        for count in COUNTS:
            reconstructor = _joined(joined, slices, method, seed, shared, count, known)
            _, scored = assess({"": reconstructor}, data, protocol, patients, joined.window)
            scores[str(count)] = asdict(scored[""])
            on_event({"event": "note", "text": f"{site.name} joins {method} with {count} slices"})
    result = {"scores": scores, "joined": joined_fingerprint(parsed, site, method)}
    write_atomically(folder / "newcomer.json", json.dumps(result).encode())


def joined_scores(
    config: RunConfig, newcomer: SiteConfig, method: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return a unit's scores of the newcomer by number of slices; none where it has not joined."""
    stored = read_table(folder / "newcomer.json")
    if stored.get("joined") != joined_fingerprint(config, newcomer, method):
        return {}
    scores: dict[str, dict[str, Any]] = stored["scores"]
    return scores


def joined_fingerprint(config: RunConfig, newcomer: SiteConfig, method: str) -> str:
    """Hash what the newcomer's scores depend on: the unit, the newcomer, the test."""
    own = unit_fingerprint(joined_config(config, newcomer), method)
    return f"{unit_fingerprint(config, method)}-{own}-{test_fingerprint(config)}"


def last_shared(folder: Path) -> State:
    """Return the shared parameters that a unit ended with; none where it shares nothing.

    A pooled network is shared in this sense, though it never travelled.

    Raises
    ------
    FedM2CTError
        When the folder has no checkpoint, as that of a restored unit.
    """
    checkpoints = RoundFiles(folder / "checkpoints", "round")
    rounds = checkpoints.rounds()
    if not rounds:
        raise FedM2CTError(
            f"{folder}: has no checkpoint (a restored unit has none), so no site can join it; "
            "remove the folder to train it again"
        )
    tensors, _ = load_tensors(checkpoints.path(rounds[-1]))
    shared = parameters_of(part_of(tensors, "shared/"))
    pool = RoundFiles(folder / "sites" / MEMBER, "private")
    if shared or not pool.rounds():
        return shared
    tensors, _ = load_tensors(pool.path(pool.rounds()[-1]))
    first = next(name.partition("/")[0] for name in tensors if "/model." in name)
    return parameters_of(part_of(tensors, f"{first}/model."))


def _joined(
    config: RunConfig,
    cohort: Cohort,
    method: str,
    seed: int,
    shared: State,
    count: int,
    known: Sequence[Protocol],
) -> Reconstructor:
    """Return the newcomer's reconstruction with a number of slices.

    `known` are the protocols that the federation was trained with.
    """
    (site,) = config.sites
    if method in CONVENTIONAL:
        return _conventional(cohort, method, site.name, seed, count)
    task = _task(cohort, site.name, seed, max(1, count))
    halves = METHODS[method](Setup(config, [task], seed, cohort.public(), compute_device()))
    trainer, (client,) = halves.trainers[site.name], halves.clients.values()
    if shared and isinstance(client, SiteClient):
        client.join(shared)
    elif shared:
        trainer.model.load_shared(shared)
    if count == 0:
        if trainer.task.public_validation and trainer.model.spec.prompted:
            choose_prompt(trainer, known)
        return _untrained(trainer.model.eval())
    return _trained(trainer, client, config.training.rounds)


def _conventional(cohort: Cohort, method: str, site: str, seed: int, count: int) -> Reconstructor:
    """Return a conventional method, set up on the newcomer's slices; on public ones without any."""
    protocol, public = cohort.protocols[site], cohort.public()
    if count == 0 and public:
        validation = acquire(public, protocol, generator(seed, site, "public noise"))
    else:
        validation = paired(_task(cohort, site, seed, max(1, count)).validation)
    return reconstructor_of(method, protocol, choose(method, protocol, validation))


def _task(cohort: Cohort, site: str, seed: int, count: int) -> SiteTask:
    """Return a task of `count` slices, spread over those of the newcomer's first patient.

    All of them where it has fewer.
    """
    protocol, selection = cohort.protocols[site], cohort.split[site][0]
    number = min(count, len(selection.slices))
    places = (np.arange(number) + 0.5) * len(selection.slices) / number
    chosen = [selection.slices[int(place)] for place in places]
    noise = generator(seed, site, "newcomer noise")
    data = acquire([(cohort.scans[selection.scan], chosen)], protocol, noise)
    return SiteTask(site, protocol, data, data)


@torch.no_grad()
def choose_prompt(trainer: SiteTrainer, known: Sequence[Protocol]) -> None:
    """Prompt the shared network as does best, by PSNR, on the trainer's public slices.

    Candidates are the site's own protocol, each of those that the network was trained with, and
    their mean condition. Our own design: with few protocols the network has learned what each of
    them needs, not what lies between or beyond them.

    Parameters
    ----------
    trainer
        The site's, with the shared parameters received and public validation slices.
    known
        Protocols of the training's sites.
    """
    model = trainer.model.eval()
    condition = CONDITIONS[model.spec.condition]
    trained = [condition(protocol) for protocol in known]
    own = model.condition
    candidates = [own, *(c.to(own) for c in (torch.stack(trained).mean(0), *trained))]
    public = torch.arange(len(trainer.task.validation), len(trainer.validation_data))
    sinogram, truth, analytical = trainer.validation_data.batch(public)
    shared, seen = model.shared, model(sinogram, analytical).seen
    assert shared is not None
    model.condition = max(candidates, key=lambda c: validation_psnr(shared(seen, c), truth))


def _untrained(model: TSiRadonMAP) -> Reconstructor:
    """Return the federation's network alone where a method has two: the other knows nothing."""
    if model.private is None or model.shared is None:
        return lambda sinogram: model(sinogram).final
    return lambda sinogram: model(sinogram).shared


def _trained(trainer: SiteTrainer, client: ClientHalf, rounds: int) -> Reconstructor:
    """Train a newcomer's model on its slices, alone; return it at its best round."""
    for index in range(1, rounds + 1):
        trainer.train_round(index, _loss(client, index))
        trainer.validate()
    trainer.model.load_state_dict(trainer.chosen())
    model = trainer.model.eval()
    return lambda sinogram: model(sinogram).final


def _loss(client: ClientHalf, round_index: int) -> Loss:
    if isinstance(client, SiteClient):
        return client.loss_of_round(round_index)
    assert isinstance(client, PooledClient)
    return client.loss
