"""Damaged files, full disks, sites that fail or send nonsense."""

import errno
import io
import json
import os
from pathlib import Path

import pytest
import torch

from fedm2ct import files
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import Aggregate, Upload
from fedm2ct.federation.storage import CheckpointError
from fedm2ct.federation.strategy import EmptyRoundError
from fedm2ct.files import StorageError, storage_failure

from ..federation.toy import ROUNDS, SITES, ToyClient, ToyServer, run_toy, same_state, toy_clients


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def shared_after(tmp_path_factory):
    """Final shared parameters of undisturbed runs, by their number of rounds."""
    made = tmp_path_factory.mktemp("runs")
    return {n: run_toy(made / str(n), rounds=n)[0].shared for n in (ROUNDS,)}


@pytest.mark.parametrize("spoil", [damage, truncate, remove])
@pytest.mark.parametrize(
    "name", ["checkpoints/round-0003.safetensors", "sites/B/private-0003.safetensors"]
)
def test_damaged_newest_round_falls_back_to_the_one_before(
    tmp_path, shared_after, caplog, spoil, name
):
    run_toy(tmp_path, rounds=3)
    spoil(tmp_path / name)
    result, _, events = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    assert same_state(result.shared, shared_after[ROUNDS])
    if not (spoil is remove and name.startswith("checkpoints")):
        (warning,) = [e["reason"] for e in events if e["event"] == "warning"]
        assert Path(name).name in warning and "from round 2 instead" in warning
        assert warning in caplog.text


def test_fall_back_works_in_mid_round_too(tmp_path, shared_after):
    class Stopped(ToyClient):
        def fit(self, round_index, shared):
            if round_index == 4:
                raise KeyboardInterrupt
            return super().fit(round_index, shared)

    with pytest.raises(KeyboardInterrupt):  # A has begun round 4, C has not
        run_toy(tmp_path, clients=toy_clients(B=Stopped("B")))
    damage(tmp_path / "checkpoints" / "round-0003.safetensors")
    result, _, _ = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    assert same_state(result.shared, shared_after[ROUNDS])


def test_nothing_usable_names_the_files_and_the_remedy(tmp_path):
    run_toy(tmp_path, rounds=3)
    damage(tmp_path / "sites" / "B" / "private-0003.safetensors")
    truncate(tmp_path / "checkpoints" / "round-0002.safetensors")
    before = {p: p.stat().st_size for p in tmp_path.rglob("*.safetensors")}
    with pytest.raises(CheckpointError) as error:
        run_toy(tmp_path, resume=True)
    for words in ("private-0003", "round-0002", "backup"):
        assert words in str(error.value)
    assert before == {p: p.stat().st_size for p in tmp_path.rglob("*.safetensors")}


def test_lost_checkpoints_do_not_restart_over_trained_sites(tmp_path):
    run_toy(tmp_path, rounds=2)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint, yet the sites hold"):
        run_toy(tmp_path, resume=True)


@pytest.mark.parametrize("changed", [{"fingerprint": "other"}, {"seed": 8}])
def test_another_configuration_is_refused(tmp_path, changed):
    run_toy(tmp_path, rounds=2)
    with pytest.raises(CheckpointError, match=r"round-0002.*another configuration or seed"):
        run_toy(tmp_path, resume=True, **changed)


def test_another_private_model_is_refused(tmp_path):
    class Wider(ToyClient):
        def private_state(self):
            return super().private_state() | {"more": torch.zeros(2)}

    run_toy(tmp_path, rounds=2)
    with pytest.raises(CheckpointError, match=r"private-0002.*another private model"):
        run_toy(tmp_path, resume=True, clients=toy_clients(B=Wider("B")))


def test_fewer_rounds_than_done_are_refused(tmp_path):
    run_toy(tmp_path, rounds=3)
    with pytest.raises(FedM2CTError, match="round 3 already"):
        run_toy(tmp_path, resume=True, rounds=2)


class FullDisk:
    """Lets some bytes of the chosen write through, then the disk is full."""

    def __init__(self, monkeypatch, fails):
        self.fails, self.hits = fails, 0
        for owner in (Path, files):
            original = getattr(owner, "open", open)
            monkeypatch.setattr(owner, "open", self._failing(original), raising=False)

    def _failing(self, original):
        def opening(path, mode="r", *args, **kwargs):
            stream = original(path, mode, *args, **kwargs)
            if mode in ("wb", "ab") and self.fails(Path(path)):
                self.hits += 1
                return _Full(stream)
            return stream

        return opening


class _Full(io.RawIOBase):
    def __init__(self, stream):
        self.stream = stream

    def writable(self):
        return True

    def write(self, data):
        self.stream.write(bytes(data)[: len(data) // 2])
        self.stream.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        self.stream.close()
        super().close()


def sizes(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "flower.log"
    }


@pytest.mark.parametrize("name", ["round-0003", "private-0003", "metrics.jsonl", "audit.jsonl"])
def test_full_disk_leaves_the_old_round_whole(tmp_path, monkeypatch, shared_after, name):
    run_toy(tmp_path, rounds=2)
    before = sizes(tmp_path)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, lambda path: path.name.startswith(name))
        with pytest.raises(StorageError, match=rf"{name}.* disk is full; free some space"):
            run_toy(tmp_path, resume=True)
        assert disk.hits == 1
    after = sizes(tmp_path)
    assert not [path for path in after if "writing" in path or path.endswith("round-0003")]
    for path in (p for p in before if "0002" in p):
        assert after[path] == before[path]
    for line in after["metrics.jsonl"].decode().splitlines():
        json.loads(line)
    result, _, _ = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    assert same_state(result.shared, shared_after[ROUNDS])


def test_full_disk_in_a_method_stops_the_run_too(tmp_path):
    class Writing(ToyClient):
        def fit(self, round_index, shared):
            raise storage_failure(Path("model.safetensors"), OSError(errno.ENOSPC, "full"))

    with pytest.raises(StorageError, match=r"model\.safetensors: the disk is full"):
        run_toy(tmp_path, clients=toy_clients(B=Writing("B")))
    assert run_toy(tmp_path, resume=True)[0].resumed_from == 0


class Failing(ToyClient):
    """Fails in round 2, half-way through its training."""

    def fit(self, round_index, shared):
        upload = super().fit(round_index, shared)
        if round_index == 2:
            raise RuntimeError("the reason")
        return upload


class Sending(ToyClient):
    """Sends something else in round 2."""

    def __init__(self, name, changed):
        super().__init__(name)
        self.changed = changed

    def fit(self, round_index, shared):
        good = super().fit(round_index, shared)
        fields = {"site": good.site, "shared": good.shared, "samples": good.samples}
        return Upload(**(fields | self.changed)) if round_index == 2 else good


def events_about(events, kind):
    return [(e["round"], e["site"], e["reason"]) for e in events if e["event"] == kind]


def test_site_that_fails_is_left_out_and_goes_back(tmp_path):
    clients = toy_clients(B=Failing("B"))
    result, _, events = run_toy(tmp_path / "run", clients=clients)
    ((round_index, site, reason),) = events_about(events, "failed")
    assert (round_index, site) == (2, "B")
    assert "RuntimeError" in reason and "the reason" not in reason
    assert "the reason" in (tmp_path / "run" / "sites" / "B" / "errors.log").read_text()
    logged = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert events_about(logged, "failed") == events_about(events, "failed")
    assert [e["n_uploads"] for e in logged if e["site"] == "server"] == [3.0, 2.0, 3.0, 3.0]
    again = toy_clients(B=Failing("B"))
    run_toy(tmp_path / "again", clients=again, rounds=2)
    private = again["B"].private_state()
    once = toy_clients()
    run_toy(tmp_path / "once", clients=once, rounds=1)
    assert same_state(private, once["B"].private_state())
    resumed = toy_clients(B=Failing("B"))
    after, _, _ = run_toy(tmp_path / "again", clients=resumed, resume=True)
    assert same_state(after.shared, result.shared)
    assert same_state(resumed["B"].private_state(), clients["B"].private_state())


NAN = {"weight": torch.full((4, 4), float("nan")), "bias": torch.zeros(4)}
HUGE = {"weight": torch.full((4, 4), 1e9), "bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shared": NAN}, "NaN"),
        ({"shared": HUGE}, "times as long"),
        ({"shared": {}}, "is missing"),
        ({"samples": -3}, "samples is -3"),
        ({"site": "A"}, "says that it is A's"),
    ],
)
def test_nonsense_is_dropped_and_the_round_goes_on(tmp_path, changed, reason):
    result, _, events = run_toy(tmp_path, clients=toy_clients(B=Sending("B", changed)))
    ((round_index, site, said),) = events_about(events, "dropped")
    assert (round_index, site) == (2, "B") and reason in said
    assert all(bool(value.isfinite().all()) for value in result.shared.values())
    assert [e["n_uploads"] for e in events if e.get("site") == "server"] == [3.0, 2.0, 3.0, 3.0]


def test_round_without_any_upload_stops_with_every_reason(tmp_path):
    clients = {s: Failing(s) if s != "C" else Sending(s, {"shared": NAN}) for s in SITES}
    with pytest.raises(EmptyRoundError, match=r"round 2: .*A: RuntimeError.*C: .*NaN.*resume"):
        run_toy(tmp_path, clients=clients)
    result, _, _ = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 1


def test_server_that_diverges_is_stopped_before_it_stores(tmp_path):
    class Diverging(ToyServer):
        def aggregate(self, round_index, shared, uploads):
            good = super().aggregate(round_index, shared, uploads)
            return (
                Aggregate({n: v / 0 for n, v in good.shared.items()}) if round_index == 2 else good
            )

    with pytest.raises(FedM2CTError, match="round 2: the server's aggregate is unusable"):
        run_toy(tmp_path, server=Diverging())
    assert run_toy(tmp_path, resume=True)[0].resumed_from == 1
