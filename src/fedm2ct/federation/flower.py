"""Flower's own programs, started as this project needs them: nothing phones home, short waits.

``python -m fedm2ct.federation.flower superlink|supernode|superexec ARGUMENTS`` is the program
``flower-...`` of the installed flwr with two differences. Telemetry and the search for updates are
off (importing `fedm2ct.federation` sees to it). And a node looks for work more often while there is
some: flwr 1.41 waits three seconds after each time that it finds none, half a second between looks
for its own app's answer, and a second for the rest of a message of which the head is there. All of
it is written into the code, and together it is most of a round.
"""

import importlib
import sys
import time
from types import ModuleType

_PROGRAMS = {
    "superlink": ("flwr.superlink.cli", "flower_superlink"),
    "supernode": ("flwr.supernode.cli", "flower_supernode"),
    "superexec": ("flwr.supercore.cli", "flower_superexec"),
}
_LOOP = "flwr.supernode.start_client_internal"
_PULLS = "flwr.supercore.inflatable.inflatable_utils"
SHORTEST_S = 0.05
_PULL_S = 3.0


class Pacer:
    """Stands in for the module `time` in the node's loop: the longer idle, the longer it sleeps.

    Parameters
    ----------
    clock
        The module `time`.
    """

    def __init__(self, clock: ModuleType = time) -> None:
        self._clock = clock
        self._busy_at = clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep at most `seconds`: briefly while a message is in work or was not long ago."""
        now = self._clock.monotonic()
        if seconds < _PULL_S:  # the loop waits for its app's answer
            self._busy_at = now
            self._clock.sleep(min(seconds, SHORTEST_S))
        else:  # the loop has found no message
            self._clock.sleep(idle_wait(now - self._busy_at, seconds))

    def __getattr__(self, name: str) -> object:
        """Return everything else of the module."""
        return getattr(self._clock, name)


def idle_wait(idle_s: float, longest_s: float) -> float:
    """Return how long to wait before looking again: a twentieth of the time without success."""
    return min(longest_s, max(SHORTEST_S, idle_s / 20))


def quicken() -> None:
    """Let this process's node look for work more often.

    Raises
    ------
    RuntimeError
        If the installed flwr has no such loop: see the test of this function.
    """
    loop = importlib.import_module(_LOOP)
    if not hasattr(loop, "time") or not hasattr(loop, "start_client_internal"):
        raise RuntimeError(f"{_LOOP} is not the loop that this was written for; use flwr 1.41")
    loop.time = Pacer()  # type: ignore[attr-defined]  # the module's own name for `time`


def quicken_pulls(longest_s: float | None = None) -> None:
    """Let this process look sooner for the rest of a message: after 0.05 s, then 0.1 s, to 1 s.

    Parameters
    ----------
    longest_s
        When to give up, in seconds; None leaves it at Flower's two hours.

    Raises
    ------
    RuntimeError
        If the installed flwr has no such waits.
    """
    module = importlib.import_module(_PULLS)
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        waits = getattr(getattr(module, name, None), "__kwdefaults__", None) or {}
        if not {"initial_backoff", "backoff_cap", "max_time"} <= waits.keys():
            raise RuntimeError(f"{_PULLS}.{name} has no waits to shorten; use flwr 1.41")
        waits |= {"initial_backoff": SHORTEST_S, "backoff_cap": 1.0}
        if longest_s is not None:
            waits["max_time"] = longest_s


def main() -> None:
    """Run the program that the first argument names, with the others."""
    module, function = _PROGRAMS[sys.argv[1]]
    if sys.argv[1] == "supernode":
        quicken()
        quicken_pulls()
    sys.argv = [f"flower-{sys.argv[1]}", *sys.argv[2:]]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
