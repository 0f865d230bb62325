"""A checkpoint that somebody has written, with right checksums, and the audit log removed."""

import pytest
import torch

from fedm2ct.federation.storage import CheckpointError, load_tensors, save_tensors

from ..federation.toy import run_toy

POISONS = {
    "NaN": (lambda t, d: t | {"shared/bias": t["shared/bias"] * float("nan")}, "holds NaN"),
    "a shape": (lambda t, d: t | {"shared/bias": torch.zeros(5)}, r"shape \[5\]"),
    "a dtype": (lambda t, d: t | {"shared/bias": torch.zeros(4).double()}, "float64"),
    "a name": (lambda t, d: t | {"shared/more": torch.zeros(4)}, "more is not shared"),
    "no parameters": (lambda t, d: {}, "is missing"),
    "no sites": (lambda t, d: d.update(trained=[1]) or t, "does not say which sites"),
    "odd sites": (lambda t, d: d.update(trained={"A": "x"}) or t, "does not say which"),
    "odd lengths": (lambda t, d: d.update(record={"lengths": {"": "x"}}) or t, "does not fit"),
    "odd samples": (lambda t, d: d.update(record={"samples": 3}) or t, "does not fit"),
    "another round": (lambda t, d: d.update(round=7) or t, "is not the server's checkpoint"),
    "another run": (lambda t, d: d.update(seed=99) or t, "another configuration or seed"),
}


@pytest.mark.parametrize("what", POISONS)
def test_a_poisoned_checkpoint_without_an_audit_log(tmp_path, what):
    run_toy(tmp_path, rounds=2)
    (tmp_path / "audit.jsonl").unlink()
    path = tmp_path / "checkpoints" / "round-0002.safetensors"
    tensors, description = load_tensors(path)
    poison, complaint = POISONS[what]
    save_tensors(path, poison(tensors, description), description)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"round-0002.*{complaint}"):
        run_toy(tmp_path, resume=True)
    assert path.read_bytes() == before


def test_a_pickle_is_not_even_read(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    run_toy(tmp_path, rounds=2)
    path = tmp_path / "checkpoints" / "round-0002.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    assert run_toy(tmp_path, resume=True)[0].resumed_from == 1
