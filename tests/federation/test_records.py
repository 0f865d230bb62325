import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedm2ct.federation.client_app import make_client_app
from fedm2ct.federation.grid import LocalGrid
from fedm2ct.federation.method import Upload
from fedm2ct.federation.records import (
    MalformedMessageError,
    Receipt,
    arrays_from_state,
    download,
    from_wire,
    read_counted,
    read_download,
    read_upload,
    receipt_of,
    reply_with_upload,
    state_from_arrays,
    to_wire,
    wire_digest,
)

from .toy import same_state

RECEIPT = Receipt(4, "n" * 32, "s" * 64)
LIKE = {"w": torch.zeros(2)}


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
    sent = message(reply_with_upload(upload, RECEIPT))
    back = read_upload(from_wire(to_wire(sent, "1")), RECEIPT, LIKE)
    assert (back.site, back.samples, back.metrics["loss"]) == ("A", 5, 0.5)
    assert np.isnan(back.metrics["bad"])
    assert same_state(back.shared, upload.shared)


GOOD = {
    "shared": ArrayRecord({"w": Array(np.zeros(2, np.float32))}),
    "metrics": MetricRecord({"loss": 1.0}),
    "about": ConfigRecord(
        {"site": "A", "samples": 3, "round": 4, "nonce": "n" * 32, "sent": "s" * 64}
    ),
}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("shared", MetricRecord(), "no shared parameters"),
        ("about", ConfigRecord({**GOOD["about"], "samples": 2.5}), "wrong kind"),
        ("about", ConfigRecord({**GOOD["about"], "site": 3}), "wrong kind"),
        ("about", ConfigRecord({"site": "A", "samples": 3}), "stale or replayed"),
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
    assert read_upload(message(RecordDict(dict(GOOD))), RECEIPT, LIKE).samples == 3
    with pytest.raises(MalformedMessageError, match=complaint):
        read_upload(message(RecordDict({**GOOD, key: value})), RECEIPT, LIKE)


def test_a_receipt_names_what_has_arrived(message):
    arrays = arrays_from_state({"w": torch.ones(2), "a": torch.zeros(())})
    arrived = from_wire(to_wire(message(download(arrays, 7, "abc", 5)), "1"))
    assert read_download(arrived)[0] == 7
    assert read_counted(arrived) == 5
    assert receipt_of(arrived) == Receipt(7, "abc", wire_digest(arrays))


def test_what_is_not_known_of_a_site_s_uploads_is_not_said(message):
    arrays = arrays_from_state({"w": torch.ones(2)})
    assert read_counted(from_wire(to_wire(message(download(arrays, 7, "abc", None)), "1"))) is None


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([1.0, 2.0])},
        {"v": torch.ones(2)},
        {"w": torch.ones(2).double()},
        {"w": torch.ones(2, 1)},
        {"w": torch.ones(2), "v": torch.ones(2)},
        {},
    ],
)
def test_a_digest_tells_states_apart(other):
    digest = wire_digest(arrays_from_state({"w": torch.ones(2)}))
    assert digest == wire_digest(arrays_from_state({"w": torch.ones(2)}))
    assert digest != wire_digest(arrays_from_state(other))


def test_the_order_of_names_does_not_matter_to_a_digest():
    state = {"w": torch.ones(2), "v": torch.zeros(1)}
    turned = dict(reversed(state.items()))
    assert wire_digest(arrays_from_state(state)) == wire_digest(arrays_from_state(turned))
