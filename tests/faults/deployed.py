"""A run over real processes of which some are about to be killed, stopped, or starved."""

import contextlib
import os
import re
import signal

from fedm2ct.deployment.processes import read_status
from fedm2ct.federation.runlog import RunLog
from fedm2ct.pipeline.unit import unit_folder

from ..deployment.loopback import end, start_up, wait_until
from ..deployment.test_deployment import METHOD, SEED
from ..runs import start

ROUNDS, STEPS = 4, 200


class Run:
    """``fedm2ct coordinator train`` in a process of its own.

    Parameters
    ----------
    federation
        What it runs over.
    out
        Folder of the run.
    processes
        The supervisors by folder, ``coordinator`` or a site's name.
    rounds, steps
        How long it is.
    """

    def __init__(self, federation, out, processes, rounds=ROUNDS, steps=STEPS):
        self.federation, self.out, self.processes = federation, out, processes
        self.toml = federation.write_federation(METHOD, rounds, steps)
        self.unit = unit_folder(out, METHOD, SEED)
        self.process = None

    def start(self, *options):
        folder = self.federation.coordinator.root
        self.process = start("coordinator", "train", folder, self.toml, "--out", self.out, *options)

    def events(self, kind="round"):
        return [e for e in RunLog(self.unit / "metrics.jsonl").read() if e["event"] == kind]

    def rounds_of(self, site):
        """Return the rounds whose upload of a site was taken."""
        return {e["round"] for e in self.events() if e["site"] == site}

    def failures(self):
        """Return why whom was left out of which round."""
        return {(e["round"], e["site"]): e["reason"] for e in self.events("failed")}

    def wait_for_round(self, number, site="server"):
        """Wait until a round is done, or until a site has taken part in it."""
        self._wait(lambda: number in self.rounds_of(site), f"{site} was not in round {number}")

    def wait_for_return(self, site, after):
        """Wait until a site takes part in a round later than `after`; return the first one."""
        self._wait(lambda: max(self.rounds_of(site), default=0) > after, f"{site} is not back")
        return min(number for number in self.rounds_of(site) if number > after)

    def _wait(self, reached, otherwise):
        def reached_or_over():
            over = self.process.poll() is not None
            if not reached() and over:
                raise AssertionError(f"{otherwise}: {self.process.communicate()[1]}")
            return reached()

        wait_until(reached_or_over, 300, otherwise)

    def end(self):
        _, said = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, said
        return said

    def end_with_an_error(self):
        _, said = self.process.communicate(timeout=300)
        assert self.process.returncode == 1, said
        return said.splitlines()[-1]

    def own_folder(self, site):
        """Return where a site keeps its private part of the run."""
        runs = self.federation.site(site).runs
        (own,) = runs.glob(f"*/{METHOD}/seed-{SEED}/sites/{site}")
        return own


@contextlib.contextmanager
def running(federation, processes, out, **length):
    """Start a run; it is gone afterwards."""
    run = Run(federation, out, processes, **length)
    run.start()
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()


@contextlib.contextmanager
def started_again(kind, folder, **environment):
    """Run a folder's services, which are not running, once more."""
    process = start_up(kind, folder.root, **environment)
    try:
        yield process
    finally:
        end(process)


def set_in(path, **values):
    """Set fields of a settings file."""
    text = path.read_text()
    for name, value in values.items():
        text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
        text = f"{name} = {value}\n{text}"
    path.write_text(text)


def send(signal_number, *numbers):
    """Send a signal to processes, if they are still there."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal_number)


def kill(*numbers):
    send(signal.SIGKILL, *numbers)


def pid_of(folder, name):
    return read_status(folder.state / "services.json")["services"][name]["pid"]
