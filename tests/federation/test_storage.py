import json

import pytest
import safetensors.torch
import torch

from fedm2ct.federation.checkpoint import Checkpoint, CheckpointStore, RunIdentity
from fedm2ct.federation.private_store import PrivateStore
from fedm2ct.federation.storage import (
    CheckpointError,
    DamagedFileError,
    load_tensors,
    save_tensors,
    state_fingerprint,
)

from .toy import same_state

IDENTITY = RunIdentity("config", 1)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype, shape):
    generator = torch.Generator().manual_seed(1)
    state = {"a": (torch.randn(shape, generator=generator) * 9).to(dtype)}
    save_tensors(tmp_path / "x.safetensors", state, {"kind": "test"})
    back, about = load_tensors(tmp_path / "x.safetensors")
    assert same_state(back, state) and about["kind"] == "test"


def test_nothing_at_all_can_be_stored(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {}, {})
    assert load_tensors(tmp_path / "x.safetensors")[0] == {}


def test_tied_and_strided_tensors_can_be_stored(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save_tensors(tmp_path / "x.safetensors", {"a": base, "b": base, "t": base.t()}, {})
    back, _ = load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(back["t"], base.t()) and torch.equal(back["b"], base)


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(4.0)}, {})
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position])
        with pytest.raises(DamagedFileError, match=r"x\.safetensors is damaged"):
            load_tensors(path)
    for position in range(len(good) - 16, len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(DamagedFileError, match="checksum"):
            load_tensors(path)


def test_missing_file_and_other_version_are_named(tmp_path):
    with pytest.raises(DamagedFileError, match="missing"):
        load_tensors(tmp_path / "x.safetensors")
    about = {"fedm2ct": json.dumps({"version": 99})}
    (tmp_path / "y.safetensors").write_bytes(safetensors.torch.save({}, about))
    with pytest.raises(CheckpointError, match="another version"):
        load_tensors(tmp_path / "y.safetensors")


def test_checkpoint_keeps_shared_and_server_apart(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    checkpoint = Checkpoint(3, {"w": torch.ones(2)}, {"w": torch.zeros(1)})
    store.save(checkpoint)
    back = store.load(3)
    assert same_state(back.shared, checkpoint.shared)
    assert same_state(back.server, checkpoint.server)


@pytest.mark.parametrize("other", [RunIdentity("other", 1), RunIdentity("config", 2)])
def test_checkpoint_of_another_run_is_refused(tmp_path, other):
    CheckpointStore(tmp_path, IDENTITY).save(Checkpoint(1, {}, {}))
    with pytest.raises(CheckpointError, match="another configuration or seed"):
        CheckpointStore(tmp_path, other).load(1)


def test_renamed_checkpoint_is_refused(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    store.save(Checkpoint(1, {}, {}))
    store.files.path(1).rename(store.files.path(2))
    with pytest.raises(CheckpointError, match="not the server's checkpoint of round 2"):
        store.load(2)


@pytest.mark.parametrize(
    ("site", "model", "identity", "complaint"),
    [
        ("B", "m", IDENTITY, "not the private state of site B"),
        ("A", "other", IDENTITY, "another private model"),
        ("A", "m", RunIdentity("other", 1), "another configuration"),
    ],
)
def test_private_state_of_another_is_refused(tmp_path, site, model, identity, complaint):
    PrivateStore(tmp_path, "A", "m", IDENTITY).save(1, {"p": torch.ones(1)})
    with pytest.raises(CheckpointError, match=complaint):
        PrivateStore(tmp_path, site, model, identity).load(1)


def test_private_state_is_of_exactly_that_round(tmp_path):
    store = PrivateStore(tmp_path, "A", "m", IDENTITY)
    store.save(1, {"p": torch.ones(1)})
    store.files.path(1).rename(store.files.path(2))
    with pytest.raises(CheckpointError, match="after round 2"):
        store.load(2)


def test_fingerprint_sees_names_shapes_and_dtypes_not_values():
    base = state_fingerprint({"a": torch.zeros(2)})
    assert base == state_fingerprint({"a": torch.ones(2)})
    others = [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}, {"a": torch.zeros(2).double()}]
    assert len({base, *map(state_fingerprint, others)}) == 4
