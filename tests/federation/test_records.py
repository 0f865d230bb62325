import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.grid import LocalGrid
from fedm2ct.federation.method import Upload
from fedm2ct.federation.records import (
    MalformedMessageError,
    arrays_from_state,
    from_wire,
    read_upload,
    reply_with_upload,
    state_from_arrays,
    to_wire,
)

from .toy import same_state


@pytest.fixture
def message():
    def make(content):
        LocalGrid(make_client_app(lambda _: None), ["A"])  # sets the sender's identity
        return Message(content, 2, "train")

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_state_survives_the_wire_bit_for_bit(message, dtype, shape):
    state = {"x": (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)}
    sent = message(RecordDict({"shared": arrays_from_state(state)}))
    received = state_from_arrays(from_wire(to_wire(sent, "1")).content["shared"])
    assert same_state(received, state)


def test_strided_tensors_arrive_contiguous():
    state = {"x": torch.arange(12.0).reshape(3, 4).t()}
    back = state_from_arrays(arrays_from_state(state))["x"]
    assert back.is_contiguous() and torch.equal(back, state["x"])


def test_received_tensors_own_their_memory():
    state = {"x": torch.zeros(3)}
    record = arrays_from_state(state)
    state["x"] += 1
    received = state_from_arrays(record)
    received["x"] += 5
    assert torch.equal(state_from_arrays(record)["x"], torch.zeros(3))


def test_upload_survives_the_wire(message):
    upload = Upload("A", {"w": torch.ones(2)}, 5, {"loss": 0.5, "bad": float("nan")})
    back = read_upload(from_wire(to_wire(message(reply_with_upload(upload)), "1")))
    assert (back.site, back.samples, back.metrics["loss"]) == ("A", 5, 0.5)
    assert np.isnan(back.metrics["bad"])
    assert same_state(back.shared, upload.shared)


GOOD = {
    "shared": ArrayRecord({"w": Array(np.zeros(2, np.float32))}),
    "metrics": MetricRecord({"loss": 1.0}),
    "about": ConfigRecord({"site": "A", "samples": 3}),
}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("shared", MetricRecord(), "no shared parameters"),
        ("about", ConfigRecord({"site": "A"}), "wrong kind"),
        ("about", ConfigRecord({"site": 3, "samples": 3}), "wrong kind"),
        ("metrics", MetricRecord({"loss": [1.0, 2.0]}), "metric loss"),
        ("metrics", ConfigRecord(), "no metrics"),
        (
            "shared",
            ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"junk")}),
            "parameter w cannot be decoded",
        ),
        (
            "shared",
            ArrayRecord({"w": Array("float32", (2,), "pickle", b"junk")}),
            "parameter w cannot be decoded",
        ),
    ],
)
def test_malformed_uploads_are_named(message, key, value, complaint):
    assert read_upload(message(RecordDict(dict(GOOD)))).samples == 3
    with pytest.raises(MalformedMessageError, match=complaint):
        read_upload(message(RecordDict({**GOOD, key: value})))
