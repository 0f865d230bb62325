"""Progress: rows where there is no terminal, a right total, no repeated warnings."""

import io

import pytest

from fedm2ct.cli.options import duration
from fedm2ct.cli.progress import RunProgress

from ..tiny import config


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tiny(methods=("fbp", "local", "fedm2ct"), rounds=2):
    whole = config(training={"rounds": rounds})
    return whole.model_copy(update={"methods": list(methods), "seeds": [0, 1]})


def one_round(progress, job, number, psnr=30.0):
    for site in ("A", "B"):
        progress({"job": job, "event": "site", "site": site, "seconds": 0.1})
    common = {"job": job, "event": "round", "round": number}
    progress({**common, "site": "A", "val_psnr_db": psnr, "loss": 1.0, "seconds": 1.0})
    progress({**common, "site": "B", "val_psnr_db": psnr + 2, "loss": 2.0, "seconds": 2.0})
    progress({**common, "site": "server", "alpha": 0.25, "seconds": 0.5})


def whole_unit(progress, job, first=1, rounds=2):
    progress({"job": job, "event": "start", "round": first - 1})
    for number in range(first, rounds + 1):
        one_round(progress, job, number)
    progress({"job": job, "event": "unit-done", "before": False})


def test_rows_only_where_there_is_no_terminal():
    stream = io.StringIO()
    with RunProgress(tiny(), stream) as progress:
        progress({"event": "note", "text": "reading lung1"})
        progress({"job": "fedm2ct/seed-1", "event": "start", "round": 0})
        one_round(progress, "fedm2ct/seed-1", 1)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert len(lines) == 2
    assert lines[0].split() == ["method", "seed", "round", "val", "PSNR", "loss", "alpha", "s"]
    assert lines[1].split() == ["fedm2ct", "1", "1/2", "31.00", "1.50", "0.25", "3.5"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_total_counts_every_round_of_every_seed(stream):
    with RunProgress(tiny(), stream) as progress:
        assert progress.total == 8
        for job in ("local/seed-0", "fedm2ct/seed-0", "local/seed-1", "fedm2ct/seed-1"):
            whole_unit(progress, job)
        progress({"job": "fbp/seed-0", "event": "unit-done", "before": False})
        assert progress.done == 8


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_resumed_run_counts_what_was_done_before(stream):
    with RunProgress(tiny(), stream) as progress:
        progress({"job": "fbp/seed-0", "event": "unit-done", "before": True})
        progress({"job": "local/seed-0", "event": "unit-done", "before": True})
        whole_unit(progress, "fedm2ct/seed-0", first=2)
        assert progress.done == 4
        whole_unit(progress, "local/seed-1", first=3)
        whole_unit(progress, "fedm2ct/seed-1")
        assert progress.done == progress.total
        if stream.isatty():
            assert (progress.bar.n, progress.bar.initial) == (8, 5)
    said = stream.getvalue()
    assert "local, seed 0: is done already" in said
    assert "fedm2ct, seed 0: goes on after round 1" in said


def test_a_terminal_shows_a_bar_and_where_every_method_is():
    stream = Terminal()
    with RunProgress(tiny(), stream) as progress:
        progress({"event": "note", "text": "reading lung1"})
        progress({"job": "local/seed-0", "event": "start", "round": 0})
        progress({"job": "fedm2ct/seed-0", "event": "start", "round": 1})
        progress({"job": "fedm2ct/seed-0", "event": "site", "site": "B", "seconds": 0.1})
        assert progress.bar.postfix == "local 1/2, fedm2ct 2/2 B"
        progress.bar.refresh()
    assert "reading lung1" in stream.getvalue()
    assert "0/8" in stream.getvalue()
    assert "local 1/2, fedm2ct 2/2 B" in stream.getvalue()


def test_a_warning_of_several_workers_is_shown_once():
    stream = io.StringIO()
    with RunProgress(tiny(), stream) as progress:
        for job in ("local/seed-0", "fedm2ct/seed-0"):
            progress({"job": job, "event": "warning", "reason": "the detector is short"})
    assert stream.getvalue() == "Warning: the detector is short\n"


def test_a_dropped_site_is_told():
    stream = io.StringIO()
    with RunProgress(tiny(), stream) as progress:
        event = {"event": "dropped", "round": 2, "site": "B", "reason": "norm is NaN"}
        progress({"job": "fedavg/seed-0", **event})
    assert stream.getvalue() == "fedavg, seed 0, round 2: B dropped: norm is NaN\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (372, "6 min 12 s"), (7384, "2 h 3 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
