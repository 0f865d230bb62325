"""The server's half of a method as a Flower ServerApp: Flower starts it once a run."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedm2ct.federation.flower import quicken_pulls


def make_server_app(run: Callable[[Grid, Context], None]) -> ServerApp:
    """Return the app that Flower starts at the coordinator, once a run.

    Parameters
    ----------
    run
        Told the grid that reaches the sites, and the run's configuration.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        quicken_pulls()
        run(grid, context)

    return app
