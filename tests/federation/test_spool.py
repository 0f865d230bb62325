"""Uploads on disk: the same bits as in memory, one upload in memory at a time, nothing left."""

import errno
import gc
import os
from pathlib import Path

import pytest
import torch

from fedm2ct.federation.method import Upload, weighted_average
from fedm2ct.federation.robust import median
from fedm2ct.federation.spool import Spool
from fedm2ct.files import StorageError

from .toy import SITES, ToyClient, ToyServer, run_toy, same_state, toy_clients


def uploads(count=3):
    draw = torch.Generator().manual_seed(1)
    return [
        Upload(
            f"s{i}",
            {
                "a/..": torch.randn(5, 4, generator=draw),
                "__metadata__": torch.randn(3, generator=draw),
                "n": torch.tensor(i),
            },
            i + 1,
            {"loss": 0.5},
        )
        for i in range(count)
    ]


def test_averages_are_the_same_to_the_bit(tmp_path):
    plain = uploads()
    with Spool(tmp_path / "uploads") as spool:
        kept = [spool.keep(upload) for upload in plain]
        for average in (weighted_average, median):
            assert same_state(average(kept), average(plain))
        assert [(u.site, u.samples, u.metrics) for u in kept] == [
            (u.site, u.samples, u.metrics) for u in plain
        ]
        assert list(kept[0].shared) == list(plain[0].shared)
        assert "nothing" not in kept[0].shared
    assert not (tmp_path / "uploads").exists()


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    (tmp_path / "old.safetensors").write_bytes(b"x")
    with Spool(tmp_path):
        assert not (tmp_path / "old.safetensors").exists()


def test_tensors_that_the_format_does_not_know_stay_in_memory(tmp_path):
    odd = Upload("A", {"w": torch.zeros(2, dtype=torch.complex128)}, 1)
    with Spool(tmp_path / "uploads") as spool:
        assert spool.keep(odd) is odd


def test_a_full_disk_is_said_to_be_one(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with Spool(tmp_path / "uploads") as spool, pytest.raises(StorageError, match="disk is full"):
        spool.keep(uploads()[0])


class Watching(ToyServer):
    """Looks at how many uploads are in memory when it averages."""

    def aggregate(self, round_index, shared, uploads):
        gc.collect()
        held = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == (4, 4)]
        self.held = len(held)
        self.folder = [type(upload.shared).__name__ for upload in uploads]
        return super().aggregate(round_index, shared, uploads)


def test_the_server_holds_no_upload_when_it_averages(tmp_path):
    held = {}
    for count in (3, 9):
        names = [f"{letter}{i}" for i in range(count // 3) for letter in SITES]
        server = Watching()
        clients = {name: Replying(name) for name in names}
        run_toy(tmp_path / str(count), rounds=1, clients=clients, server=server)
        assert server.folder == ["SpooledTensors"] * count
        held[count] = server.held
    assert held[3] == held[9]
    assert not (tmp_path / "3" / "uploads").exists()


class Replying(ToyClient):
    """Sends tensors that it does not keep, and keeps none of that shape itself."""

    def __init__(self, name):
        super().__init__(name)
        self.private = super().private_state()
        del self.body, self.parameters, self.optimiser

    def fit(self, round_index, shared):
        return Upload(self.site, {n: t + 0.01 for n, t in shared.items()}, 16)

    def private_state(self):
        return self.private if hasattr(self, "private") else super().private_state()


def test_a_round_that_fails_leaves_no_upload_behind(tmp_path):
    class Failing(ToyServer):
        def aggregate(self, round_index, shared, uploads):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        run_toy(tmp_path, clients=toy_clients(), server=Failing())
    assert not (tmp_path / "uploads").exists()
