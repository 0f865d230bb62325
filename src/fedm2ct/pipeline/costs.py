"""What a run has cost on the wire, by method, site and round; and the heads of its audit logs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedm2ct.config import RunConfig
from fedm2ct.federation.audit import FILE_NAME, read_chain
from fedm2ct.pipeline.conventional import CONVENTIONAL
from fedm2ct.pipeline.unit import unit_folder

_SUMS = ("bytes_up", "bytes_down", "seconds")
_EXCHANGES = ("round", "dropped", "failed", "finish")


def costs(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was sent, received and waited for, by method.

    Parameters
    ----------
    history
        The lines of ``metrics.jsonl``, each with its method and seed.

    Returns
    -------
    dict
        By method: ``seeds``; ``sites`` (by name: ``bytes_up``, ``bytes_down``, ``seconds`` in all
        and ``rounds``, by number, of the same three); all of them means over the seeds. Bytes are
        those of whole messages; the handing over of the final parameters counts in the sums.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for line in history:
        if line.get("event") in _EXCHANGES and line.get("site") != "server":
            by_method.setdefault(str(line["method"]), []).append(line)
    return {method: _of_method(lines) for method, lines in by_method.items()}


def _of_method(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seeds = len({line["seed"] for line in lines})
    sites: dict[str, Any] = {}
    for line in lines:
        site = sites.setdefault(str(line["site"]), {**dict.fromkeys(_SUMS, 0.0), "rounds": {}})
        targets = [site]
        if line["event"] != "finish":
            empty = dict.fromkeys(_SUMS, 0.0)
            targets.append(site["rounds"].setdefault(str(line["round"]), empty))
        for target in targets:
            for name in _SUMS:
                target[name] += line[name] / seeds
    return {"seeds": seeds, "sites": sites}


def audit_heads(config: RunConfig, run: Path) -> dict[str, str]:
    """Return the hash of the last line of every unit's audit log.

    Raises
    ------
    AuditError
        If a log is not as it was written.
    """
    folders = [
        unit_folder(run, method, seed)
        for method in config.methods
        for seed in config.seeds
        if method not in CONVENTIONAL
    ]
    return {
        f"{folder.parent.name}/{folder.name}": read_chain(folder / FILE_NAME).head
        for folder in folders
        if (folder / FILE_NAME).exists()
    }
