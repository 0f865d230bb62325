"""Clocks that are wrong, or jump: they are shown, and nothing depends on them."""

import datetime
import itertools
import json
import os
import time

from fedm2ct.federation import audit
from fedm2ct.federation.audit_check import check_unit

from ..federation.toy import run_toy, same_state

HOURS = (0.0, 5.0, -30.0, 9.0, -2000.0, 1e5)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    undisturbed, clients, _ = run_toy(tmp_path / "whole")
    true_time, hours = time.time, itertools.cycle(HOURS)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(true_time() + 3600 * next(hours), tz)

    monkeypatch.setattr(time, "time", lambda: true_time() + 3600 * next(hours))
    monkeypatch.setattr("flwr.app.message.message.now", lambda: Jumping.now(datetime.UTC))
    monkeypatch.setattr(audit, "datetime", Jumping)
    folder = tmp_path / "skewed"
    run_toy(folder, rounds=2)
    for number, path in enumerate(sorted(folder.rglob("*.*"))):  # files older the newer they are
        os.utime(path, (1e9 - number, 1e9 - number))
    resumed, again, _ = run_toy(folder, resume=True)
    assert resumed.resumed_from == 2
    assert same_state(resumed.shared, undisturbed.shared)
    for site, client in clients.items():
        assert same_state(again[site].private_state(), client.private_state())
    times = [json.loads(x)["time"] for x in (folder / "audit.jsonl").read_text().splitlines()]
    assert times != sorted(times)  # it did jump
    assert check_unit(folder).faults == ()
