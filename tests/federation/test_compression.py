"""Compressed updates: what comes back, what is kept back, what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedm2ct.federation.compression import (
    PACKED,
    SCALES,
    EncodingError,
    apply_change,
    change,
    decode,
    encode,
    remainder,
)

KINDS = pytest.mark.parametrize("kind", ["fp16", "int8"])
LIKE = {"w": torch.zeros(2, 3), "b": torch.zeros(2), "n": torch.tensor(0)}


def update(seed=0, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    real = {n: scale * torch.randn(t.shape, generator=draw) for n, t in LIKE.items() if n != "n"}
    return {**real, "n": torch.tensor(7)}


def test_eight_bits_by_hand():
    sent = encode({"a": torch.tensor([1.27, -0.634, 0.004]), "z": torch.zeros(2)}, "int8")
    assert sent[PACKED].tolist() == [127, -63, 0, 0, 0]
    assert sent[SCALES].tolist() == pytest.approx([0.01, 0.0])
    back = decode(sent, {"z": torch.zeros(2), "a": torch.zeros(3)}, "int8")
    assert list(back) == ["z", "a"]
    assert back["a"].tolist() == pytest.approx([1.27, -0.63, 0.0])


def test_half_precision_by_hand():
    sent = encode({"a": torch.tensor([1.0, 1 + 2**-12, 1e6, -1e6])}, "fp16")
    assert sent[PACKED].tolist() == [1.0, 1.0, 65504.0, -65504.0]


@KINDS
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_what_arrives_is_near_what_was_sent(kind, scale, seed):
    whole = update(seed, scale)
    back = decode(encode(whole, kind), LIKE, kind)
    for name, tensor in whole.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        largest = float(tensor.abs().max())
        step = largest / 254 if kind == "int8" else largest / 2048
        assert float((back[name] - tensor).abs().max()) <= step * 1.001 + 1e-7


@KINDS
def test_whole_numbers_travel_as_they_are(kind):
    sent = encode(update(), kind)
    assert sent.keys() == {"n", PACKED} | ({SCALES} if kind == "int8" else set())
    assert int(decode(sent, LIKE, kind)["n"]) == 7


@KINDS
def test_nothing_is_lost_for_good(kind):
    """With feedback the sum of what arrives keeps up with the sum of what was to be sent."""
    kept = {n: torch.zeros_like(t) for n, t in LIKE.items() if n != "n"}
    meant = {n: t.clone() for n, t in kept.items()}
    arrived = {n: t.clone() for n, t in kept.items()}
    for step in range(50):
        raw = update(seed=step)
        meant = {n: t + raw[n] for n, t in meant.items()}
        with_rest = {n: raw[n] + kept[n] if n in kept else raw[n] for n in raw}
        sent = encode(with_rest, kind)
        kept = remainder(with_rest, sent, kind)
        arrived = {n: t + decode(sent, LIKE, kind)[n] for n, t in arrived.items()}
    for name, total in meant.items():
        assert torch.allclose(arrived[name] + kept[name], total, atol=1e-4)
        assert float(kept[name].abs().max()) < 0.02  # of one step, not of fifty


@KINDS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen_to_be_so_and_not_kept(kind, bad):
    whole = {**update(), "b": torch.tensor([1.0, bad])}
    sent = encode(whole, kind)
    back = decode(sent, LIKE, kind)
    assert not bool(back["b"].isfinite().all()) and bool(back["w"].isfinite().all())
    assert all(bool(t.isfinite().all()) for t in remainder(whole, sent, kind).values())


@KINDS
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda sent: sent.pop(PACKED), "update.packed is missing"),
        (lambda sent: sent.update(more=torch.ones(1)), "more is not expected"),
        (lambda sent: sent.pop("n"), "n is missing"),
        (lambda sent: sent.update({PACKED: sent[PACKED][:-1]}), r"of shape \[7\], not .* of \[8\]"),
        (lambda sent: sent.update({PACKED: sent[PACKED].double()}), "is torch.float64"),
        (lambda sent: sent.update({PACKED: sent[PACKED].reshape(2, 4)}), r"of shape \[2, 4\]"),
    ],
)
def test_another_form_is_refused(kind, spoil, reason):
    sent = encode(update(), kind)
    spoil(sent)
    with pytest.raises(EncodingError, match=reason):
        decode(sent, LIKE, kind)


def test_scales_of_another_number_are_refused():
    sent = encode(update(), "int8")
    with pytest.raises(EncodingError, match=r"update\.scales .* of shape \[1\]"):
        decode({**sent, SCALES: sent[SCALES][:1]}, LIKE, "int8")


def test_nothing_to_send_is_no_special_case():
    assert decode(encode({}, "int8"), {}, "int8") == {}


def test_changes_are_to_what_has_the_same_name():
    base = {"w": torch.ones(2), "n": torch.tensor(3)}
    sent = {"w": torch.tensor([2.0, 4.0]), "n": torch.tensor(5), "control.w": torch.ones(2)}
    difference = change(sent, base)
    assert difference["w"].tolist() == [1.0, 3.0]
    assert int(difference["n"]) == 5 and difference["control.w"].tolist() == [1.0, 1.0]
    assert apply_change(difference, base)["w"].tolist() == [2.0, 4.0]
