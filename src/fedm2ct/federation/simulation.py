"""Flower's simulation: many virtual sites, spread over processes by Ray (extra ``simulation``).

Sites keep their private states on disk, as in a deployment: any of Ray's processes may be given any
round of any site.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.simulation import run_simulation

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.method import ServerHalf
from fedm2ct.federation.packing import packed, packing, unpacked
from fedm2ct.federation.remote_grid import Patience, RemoteGrid
from fedm2ct.federation.run import RunResult, run_method
from fedm2ct.federation.runlog import Event
from fedm2ct.federation.server_app import make_server_app
from fedm2ct.federation.site import Site

_NAME = "name"
_START_S = 120.0


def run_in_simulation(
    server: ServerHalf,
    find_site: Callable[[str], Site],
    sites: Sequence[str],
    rounds: int,
    run_dir: Path,
    *,
    resume: bool,
    seed: int,
    fingerprint: str,
    on_event: Callable[[Event], None] = lambda _: None,
    cpus_a_site: float = 1.0,
) -> RunResult:
    """Run a method with virtual sites in Ray's processes.

    Parameters
    ----------
    server
        The server's half, fresh from its constructor.
    find_site
        Returns the site of a name, a `RemoteSite`. It goes to other processes: a module-level
        function, or a `functools.partial` of one with plain arguments.
    sites
        Names of the sites.
    rounds, run_dir, resume, seed, fingerprint, on_event
        As of `run_method`.
    cpus_a_site
        CPU cores that a site in work takes.

    Raises
    ------
    FedM2CTError
        As `run_method`.
    """
    outcome: list[RunResult | BaseException] = []

    def serve(grid: Grid, context: Context) -> None:
        try:
            remote = RemoteGrid(grid, _names_of(grid, len(sites)), Patience(return_s=0.0))
            result = run_method(
                server,
                {},
                rounds,
                run_dir,
                resume=resume,
                seed=seed,
                fingerprint=fingerprint,
                on_event=on_event,
                grid=remote,
            )
            outcome.append(result)
        except BaseException as error:
            outcome.append(error)

    run_simulation(
        make_server_app(serve),
        _client_app(find_site, sorted(sites)),
        len(sites),
        backend_config={"client_resources": {"num_cpus": cpus_a_site, "num_gpus": 0.0}},
    )
    if not outcome:
        raise FedM2CTError("the simulation ended without a result; see its output")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _client_app(find_site: Callable[[str], Site], names: list[str]) -> ClientApp:
    app = make_client_app(partial(_site_of, find_site, names), [packing])

    @app.query()
    def name(message: Message, context: Context) -> Message:
        record = ConfigRecord({_NAME: _name_of(names, context)})
        return Message(RecordDict({_NAME: record}), reply_to=message)

    return app


def _site_of(find_site: Callable[[str], Site], names: list[str], context: Context) -> Site:
    return find_site(_name_of(names, context))


def _name_of(names: list[str], context: Context) -> str:
    return names[int(context.node_config["partition-id"])]


def _names_of(grid: Grid, count: int) -> dict[int, str]:
    """Ask every node which site it is: the simulation gives them random numbers."""
    deadline = time.monotonic() + _START_S
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise FedM2CTError(f"the simulation has {len(nodes)} nodes for {count} sites")
        time.sleep(0.1)
    questions = [Message(packed(RecordDict()), node, MessageType.QUERY) for node in nodes]
    names: dict[int, str] = {}
    for reply in grid.send_and_receive(questions):
        record = unpacked(reply.content)[_NAME]
        assert isinstance(record, ConfigRecord)
        names[reply.metadata.src_node_id] = str(record[_NAME])
    return names
