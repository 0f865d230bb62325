"""Finding the round that an interrupted run can go on from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import Checkpoint, CheckpointStore
from fedm2ct.federation.site import Site
from fedm2ct.federation.storage import CheckpointError, DamagedFileError


class RunExistsError(FedM2CTError):
    """A folder that should be new holds a run already."""


def refuse_existing_run(run_dir: Path) -> None:
    """Refuse to start anew where a run has left anything.

    Parameters
    ----------
    run_dir
        Folder of the unit of work.

    Raises
    ------
    RunExistsError
        If there are checkpoints, private states or a log.
    """
    patterns = ("*.jsonl", "checkpoints/*.safetensors", "sites/*/private-*.safetensors")
    if any(next(run_dir.glob(pattern), None) is not None for pattern in patterns):
        raise RunExistsError(
            f"{run_dir} holds a run already: resume it (--resume), or choose another output folder"
        )


def newest_resumable(
    checkpoints: CheckpointStore, sites: Sequence[Site], warn: Callable[[str], None]
) -> Checkpoint | None:
    """Return the newest round that the server and all sites that took part have stored, undamaged.

    A site that was away in a round has its part in an older one.

    Parameters
    ----------
    checkpoints
        The server's checkpoints.
    sites
        All sites.
    warn
        Told, in a sentence each, about rounds that had to be passed over.

    Returns
    -------
    Checkpoint or None
        None where nothing has been stored yet, so that the run can only begin.

    Raises
    ------
    CheckpointError
        If there are checkpoints, yet none can be used; or if one belongs to another run or model.
    """
    faults: list[str] = []
    for round_index in reversed(checkpoints.files.rounds()):
        try:
            checkpoint = checkpoints.load(round_index)
            for site in sites:
                site.store.load_until(round_index, checkpoint.trained.get(site.name, round_index))
        except DamagedFileError as error:
            faults.append(f"round {round_index}: {error}")
            continue
        for fault in faults:
            warn(f"{fault}; going on from round {round_index} instead")
        return checkpoint
    if not faults and all(set(site.store.files.rounds()) <= {0} for site in sites):
        return None
    raise CheckpointError(
        f"no round in {checkpoints.files.folder} can be resumed "
        f"({'; '.join(faults) or 'it holds no checkpoint, yet the sites hold private states'}): "
        "put the files back from a backup, or start again in another output folder"
    )
