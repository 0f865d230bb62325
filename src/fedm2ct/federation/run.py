"""Running a method through Flower, its sites here or elsewhere; it may be interrupted at any time.

Of a round, the sites' private states are stored first, then the log and the audit log, then the
server's checkpoint: the round counts as done when the last is there. A run that is resumed goes
back to the newest round of which everything is there, and from then on computes the same bits as
one never interrupted.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.coordinator import Coordinator
from fedm2ct.federation.method import ClientHalf, ServerHalf, State
from fedm2ct.federation.resume import refuse_existing_run
from fedm2ct.federation.runlog import Event
from fedm2ct.federation.site import Site

if TYPE_CHECKING:
    from fedm2ct.federation.grid import Traffic
    from fedm2ct.federation.remote_grid import RemoteGrid

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class RunResult:
    """What a run ends with.

    Attributes
    ----------
    shared
        The final shared parameters.
    rounds
        Rounds that the whole run had.
    resumed_from
        The round that this call went on from; None if it began the run.
    final_metrics
        What each site's `ClientHalf.finish` returned, by site name.
    """

    shared: State
    rounds: int
    resumed_from: int | None
    final_metrics: dict[str, dict[str, float]]


def run_method(
    server: ServerHalf,
    clients: Mapping[str, ClientHalf],
    rounds: int,
    run_dir: Path,
    *,
    resume: bool,
    seed: int,
    fingerprint: str,
    on_event: Callable[[Event], None] = lambda _: None,
    grid: "RemoteGrid | None" = None,
) -> RunResult:
    """Run a method from its first or its last stored round to the end.

    Parameters
    ----------
    server
        The server's half, fresh from its constructor.
    clients
        The sites' halves by site name, fresh from their constructors. They train one after the
        other, sorted by name.
    rounds
        Number of rounds of the whole run.
    run_dir
        Folder of this unit of work: ``checkpoints/``, ``sites/SITE/``, ``metrics.jsonl``,
        ``audit.jsonl``, ``flower.log``.
    resume
        Go on from what is stored there; begin where nothing is.
    seed
        Seed of the run: a run is resumed under the seed it was started with only.
    fingerprint
        Hash of the configuration: likewise.
    on_event
        Called with each event: every line of the log, and ``start``, ``site`` (a site has
        replied), ``checkpoint``, ``warning`` and ``done``, which are not logged.
    grid
        Reaches sites that are elsewhere and keep their own states; `clients` is then empty.

    Returns
    -------
    RunResult
        The final shared parameters and the sites' final scalars.

    Raises
    ------
    RunExistsError
        If the folder holds a run and `resume` is false.
    CheckpointError
        If what is stored cannot be used.
    StorageError
        If the disk is full or cannot be written to.
    EmptyRoundError
        If a round has no usable upload.
    FedM2CTError
        If an argument makes no sense, or a site cannot take the final parameters.
    """
    _check_arguments(list(grid.sites.values() if grid else clients), rounds)
    if not resume:
        refuse_existing_run(run_dir)
    unit = _Unit(server, clients, run_dir, RunIdentity(fingerprint, seed), on_event)
    resumed_from = unit.restore(rounds) if resume else None
    if resumed_from is None:
        unit.begin()
    on_event(
        {
            "event": "start",
            "round": resumed_from or 0,
            "rounds": rounds,
            "resumed": resumed_from is not None,
        }
    )
    final = unit.federate(rounds, grid)
    on_event({"event": "done", "round": rounds})
    return RunResult(unit.coordinator.shared, rounds, resumed_from, final)


def _check_arguments(sites: Sequence[str], rounds: int) -> None:
    if rounds < 1:
        raise FedM2CTError(f"rounds is {rounds}: a run needs at least one round")
    if not sites:
        raise FedM2CTError("a run needs at least one site: name the sites in the configuration")
    for name in sites:
        if name == "server" or not _SITE_NAME.fullmatch(name):
            raise FedM2CTError(
                f"site name {name!r} cannot name a folder: use letters, digits, '.', '_' and '-', "
                "and not the word server"
            )


class _Unit:
    """One unit of work (a method under a seed) with its folder: the coordinator and all sites."""

    def __init__(
        self,
        server: ServerHalf,
        clients: Mapping[str, ClientHalf],
        folder: Path,
        identity: RunIdentity,
        on_event: Callable[[Event], None],
    ) -> None:
        self.folder = folder
        self.sites = {
            name: Site(name, clients[name], folder / "sites" / name, identity)
            for name in sorted(clients)
        }
        self.coordinator = Coordinator(server, folder, identity, on_event)
        self.on_event = on_event

    def begin(self) -> None:
        """Store round 0: everything that round 1 starts from."""
        for site in self.sites.values():
            site.begin()
        self.coordinator.begin(list(self.sites))

    def restore(self, rounds: int) -> int | None:
        """Go back to the newest stored round and return it; None if there is none."""
        found = self.coordinator.restore(rounds, list(self.sites.values()))
        if found is not None:
            for site in self.sites.values():
                site.restore(found)
        return found

    def federate(self, rounds: int, given: "RemoteGrid | None") -> dict[str, dict[str, float]]:
        """Run the rounds that remain, and the end; return the sites' final scalars."""
        from fedm2ct.federation.client_app import make_client_app
        from fedm2ct.federation.grid import LocalGrid
        from fedm2ct.federation.strategy import MethodStrategy

        coordinator = self.coordinator
        app = make_client_app(lambda context: self.sites[str(context.node_config["site"])])
        grid: LocalGrid | RemoteGrid = given or LocalGrid(app, list(self.sites), self._on_reply)
        strategy = MethodStrategy(
            coordinator.server,
            coordinator.shared,
            grid.sites,
            rounds_done=coordinator.rounds_done,
            on_round=lambda report: coordinator.round_done(report, strategy.shared, grid.traffic),
            record=coordinator.record,
            spool=self.folder / "uploads",
        )
        with _flower_log(self.folder / "flower.log"):
            final = strategy.run(grid, rounds)
        coordinator.finished(final, rounds, grid.traffic)
        return final.metrics

    def _on_reply(self, site: str, traffic: "Traffic") -> None:
        self.on_event({"event": "site", "site": site, "seconds": traffic.seconds})


class _QuietFileHandler(logging.FileHandler):
    """A log file that may fail to be written: it must not flood the console then."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line."""


@contextlib.contextmanager
def _flower_log(path: Path) -> Iterator[None]:
    """Send Flower's own log lines to a file, and nowhere else, for a while."""
    flower = logging.getLogger("flwr")
    handlers, propagate = flower.handlers[:], flower.propagate
    handler: logging.Handler
    try:
        handler = _QuietFileHandler(path, encoding="utf-8", delay=True)
    except OSError:
        handler = logging.NullHandler()
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    flower.handlers, flower.propagate = [handler], False
    try:
        yield
    finally:
        flower.handlers, flower.propagate = handlers, propagate
        handler.close()
