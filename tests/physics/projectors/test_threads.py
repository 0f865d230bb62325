"""Work is cut over torch's number of threads, whole and once."""

import threading

import pytest
import torch

from fedm2ct.physics.projectors.threads import in_threads


@pytest.mark.parametrize(
    ("threads", "count", "pieces", "expected"),
    [
        (1, 20, 4, [(0, 20)]),
        (2, 20, 1, [(0, 10), (10, 20)]),
        (2, 20, 2, [(0, 5), (5, 10), (10, 15), (15, 20)]),
        (3, 2, 4, [(0, 1), (1, 2)]),
        (4, 1, 4, [(0, 1)]),
    ],
)
def test_work_is_cut_as_torch_says(monkeypatch, threads, count, pieces, expected):
    calls = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    in_threads(lambda begin, end: calls.append((begin, end)), count, pieces=pieces)
    assert sorted(calls) == expected


def test_as_many_threads_work_at_once(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = threading.Barrier(3, timeout=20)
    in_threads(lambda begin, end: together.wait(), 3, pieces=1)


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fail(begin, end):
        raise ValueError(f"{begin} to {end}")

    with pytest.raises(ValueError, match=r"0 to 1|1 to 2"):
        in_threads(fail, 2, pieces=1)
