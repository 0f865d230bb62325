"""Whatever is uploaded: refused, or harmless; and nothing but `Rejected` comes of it."""

import io
import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.grid import LocalGrid
from fedm2ct.federation.method import Upload, weighted_average
from fedm2ct.federation.records import MalformedMessageError, Receipt, read_upload
from fedm2ct.federation.validation import Limits, TrackRecord, update_norm, validate_uploads

LIKE = {"w": torch.linspace(-1, 1, 6).reshape(2, 3), "b": torch.ones(3), "n": torch.tensor(4)}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-45, 3.4e38, -3.4e38, 1e6, -1.0])
NAMES = st.sampled_from(["w", "b", "n", "W", "w ", "", "shared.w"]) | st.text(max_size=8)


def honest(site, step):
    moved = {name: v + step if v.is_floating_point() else v for name, v in LIKE.items()}
    return Upload(site, moved, 20)


OTHERS = [honest("A", 0.01), honest("B", 0.012), honest("C", 0.009)]


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.sampled_from([(2, 3), (3,), (), (1,), (3, 2), (0,), (2, 3, 1)])))
    values = draw(st.lists(FLOATS, min_size=math.prod(shape), max_size=math.prod(shape)))
    with np.errstate(all="ignore"):
        array = torch.tensor(values, dtype=torch.float64).reshape(shape)
    if not dtype.is_floating_point:
        array = array.nan_to_num(0.0, 1e9, -1e9).clamp(-1e9, 1e9)
    return array.to(dtype)


@st.composite
def mutated(draw):
    """An honest upload with anything changed in it."""
    state = dict(honest("D", draw(st.sampled_from([0.0, 0.01, 1.0, 1e4, 1e30]))).shared)
    for name in draw(st.lists(NAMES, max_size=3)):
        action = draw(st.sampled_from(["replace", "remove", "scale"]))
        if action == "remove":
            state.pop(name, None)
        elif action == "replace":
            state[name] = draw(tensors())
        elif name in state and state[name].is_floating_point():
            state[name] = state[name] * draw(FLOATS)
    samples = draw(
        st.sampled_from([20, 1, 0, -1, True, None, 2.5, "20"]) | st.integers() | st.floats()
    )
    site = draw(st.sampled_from(["D", "A", "d"]) | st.text(max_size=5))
    return Upload(site, state, samples)


def step_length(uploads):
    mean = weighted_average(uploads)
    return update_norm({n: mean[n] for n in LIKE}, LIKE)


def bound():
    limits = Limits()
    lengths = sorted(update_norm(upload.shared, LIKE) for upload in OTHERS)
    zeros = {n: torch.zeros_like(v) for n, v in LIKE.items()}
    floor = limits.norm_floor * update_norm(LIKE, zeros)
    return limits.norm_factor * max(lengths[-1], floor)


@settings(max_examples=300, deadline=None)
@given(upload=mutated(), first=st.booleans())
def test_an_upload_is_refused_or_does_no_harm(upload, first):
    together = [upload, *OTHERS] if first else [*OTHERS, upload]
    accepted, rejected = validate_uploads(together, LIKE, Limits(), record=TrackRecord())
    assert len(accepted) + len(rejected) == 4
    assert len({u.site for u in accepted}) == len(accepted)
    for refusal in rejected:
        assert refusal.reason and refusal.reason.isprintable()
        assert len(refusal.reason) <= 300
    if not any(u is upload for u in accepted):
        honest_ones = {u.site for u in OTHERS} - {upload.site}
        assert honest_ones <= {u.site for u in accepted}
        return
    assert upload.shared.keys() == LIKE.keys()
    assert 1 <= upload.samples <= Limits().max_samples
    assert step_length(accepted) <= bound() * (1 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(upload=mutated(), seed=st.integers(0, 9))
def test_what_is_refused_has_no_effect_on_the_average(upload, seed):
    order = np.random.default_rng(seed).permutation(4)
    together = [[upload, *OTHERS][k] for k in order]
    accepted, _ = validate_uploads(together, LIKE, Limits())
    if {id(u) for u in accepted} == {id(u) for u in OTHERS}:
        expected = weighted_average(OTHERS)
        found = weighted_average(accepted)
        assert all(torch.equal(found[name], expected[name]) for name in LIKE)


@settings(max_examples=200, deadline=None)
@given(uploads=st.lists(mutated(), max_size=5), rounds=st.integers(1, 3))
def test_a_record_survives_anything_and_its_own_file(uploads, rounds):
    import json

    record = TrackRecord()
    for _ in range(rounds):
        validate_uploads(uploads, LIKE, Limits(), record=record)
        record = TrackRecord.from_json(json.loads(json.dumps(record.as_json())))
    assert all(math.isfinite(v) for known in record.lengths.values() for v in known)


EXPECTED = Receipt(2, "n" * 32, "s" * 64)
SCALARS = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.text(max_size=9)
ARRAY = io.BytesIO()
np.save(ARRAY, np.zeros((2, 3), np.float32))
GOOD_BYTES = ARRAY.getvalue()


@st.composite
def damaged_bytes(draw):
    """The bytes of a good array with some of them changed, cut off or added."""
    data = bytearray(GOOD_BYTES)
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)) | st.just(len(data)))
    return bytes(data[:end]) + draw(st.binary(max_size=8))


@st.composite
def contents(draw):
    """A reply that has the right parts, of which each may be anything."""
    about = {"site": "A", "samples": 3, "round": 2, "nonce": "n" * 32, "sent": "s" * 64}
    about |= draw(st.dictionaries(st.sampled_from(sorted(about)), SCALARS, max_size=2))
    shape = tuple(draw(st.lists(st.integers(0, 2**40), max_size=3)))
    stype = draw(st.sampled_from(["numpy.ndarray", "numpy.ndarray", "pickle", ""]))
    array = Array(draw(st.text(max_size=8)), shape, stype, draw(damaged_bytes()))
    metrics = draw(
        st.dictionaries(
            st.text(max_size=9),
            st.integers(-(2**63), 2**63 - 1) | st.floats() | st.lists(st.floats(), max_size=2),
            max_size=3,
        )
    )
    parts = {
        "about": ConfigRecord(about),
        "shared": ArrayRecord({draw(NAMES): array}),
        "metrics": MetricRecord(metrics),
    }
    for name in draw(st.lists(st.sampled_from(sorted(parts)), max_size=1)):
        del parts[name]
    return RecordDict(parts)


@pytest.fixture(scope="module")
def message():
    LocalGrid(make_client_app(lambda _: None), ["A"])  # sets the sender's identity
    return lambda content: Message(content, 2, "train")


@settings(max_examples=400, deadline=None)
@given(content=contents())
def test_reading_a_reply_gives_an_upload_or_says_what_is_wrong(message, content):
    try:
        upload = read_upload(message(content), EXPECTED, {"w": torch.zeros(2, 3)})
    except MalformedMessageError as error:
        assert str(error)
        return
    assert isinstance(upload.site, str) and isinstance(upload.samples, int)
    assert all(isinstance(t, torch.Tensor) for t in upload.shared.values())
    validate_uploads([upload], {"w": torch.zeros(2, 3)}, Limits())
