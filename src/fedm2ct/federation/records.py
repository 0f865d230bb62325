"""Between this project's values and Flower's records, and between messages and bytes.

Only arrays, numbers and short texts cross: nothing is pickled, and nothing passes by reference.
What arrives is distrusted: an array is measured before it is decoded, and a reply must name what it
answers.
"""

import hashlib
import io
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from torch import Tensor

from fedm2ct.federation.method import State, Upload

_SHARED = "shared"
_METRICS = "metrics"
_ABOUT = "about"
_METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")
_MOST_METRICS = 256
_SPARE_BYTES = 1 << 20


class MalformedMessageError(ValueError):
    """A message does not hold what it should."""


def arrays_from_state(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return named tensors as a record (a copy, on the CPU, contiguous).

    Parameters
    ----------
    state
        Tensors of a dtype that NumPy knows.

    Raises
    ------
    TypeError
        If a tensor has a dtype without a NumPy counterpart, such as bfloat16.
    """
    record = ArrayRecord()
    for name, tensor in state.items():
        record[name] = Array(tensor.detach().cpu().contiguous().numpy())
    return record


def state_from_arrays(record: ArrayRecord) -> State:
    """Return a record's arrays as tensors that own their memory.

    Raises
    ------
    MalformedMessageError
        If an array cannot be decoded.
    """
    return {name: _tensor(name, array) for name, array in record.items()}


def _tensor(name: str, array: Array) -> torch.Tensor:
    """Decode an array whose header describes exactly the bytes that follow it.

    NumPy allocates what a header asks for before it reads: the header must not be believed.
    """
    try:
        stream = io.BytesIO(array.data)
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        follow = len(array.data) - stream.tell()
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != follow:
            raise MalformedMessageError(f"parameter {name} is not what its header says")
        return torch.from_numpy(array.numpy().copy())
    except MalformedMessageError:
        raise
    except Exception as error:  # hostile bytes raise whatever NumPy's parser happens to meet
        raise MalformedMessageError(f"parameter {name} cannot be decoded") from error


def wire_digest(record: ArrayRecord) -> str:
    """Return a SHA-256 over names and bytes of the arrays as they travel."""
    digest = hashlib.sha256()
    for name in sorted(record):
        array = record[name]
        label = f"{name}\n{array.stype} {array.dtype} {list(array.shape)} {len(array.data)}\n"
        digest.update(label.encode("utf-8", "backslashreplace"))
        digest.update(array.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What a reply answers: no other round, nobody else's message, and no other parameters.

    Attributes
    ----------
    round_index
        The round.
    nonce
        What the server drew for this round and has never sent before.
    sent
        `wire_digest` of the parameters that were sent, computed by who received them.
    """

    round_index: int
    nonce: str
    sent: str


def new_nonce() -> str:
    """Return 128 random bits in hexadecimal: they protect a round, no result depends on them."""
    return secrets.token_hex(16)


def download(arrays: ArrayRecord, round_index: int, nonce: str, counted: int | None) -> RecordDict:
    """Return what the server sends a site.

    Parameters
    ----------
    arrays
        The shared parameters.
    round_index, nonce
        The round's number and its nonce.
    counted
        The last round in which the site's upload counted, 0 for none; None says nothing of it.
    """
    about: dict[str, ConfigRecordValues] = {"round": round_index, "nonce": nonce}
    if counted is not None:
        about["counted"] = counted
    return RecordDict({_SHARED: arrays, _ABOUT: ConfigRecord(about)})


def receipt_of(message: Message) -> Receipt:
    """Return the receipt for what the server has sent, after `read_download` has accepted it."""
    about, arrays = message.content[_ABOUT], message.content[_SHARED]
    assert isinstance(about, ConfigRecord) and isinstance(arrays, ArrayRecord)
    round_index = about["round"]
    assert isinstance(round_index, int)
    return Receipt(round_index, str(about.get("nonce")), wire_digest(arrays))


def read_download(message: Message) -> tuple[int, State]:
    """Return the round and the shared parameters that the server has sent.

    Raises
    ------
    MalformedMessageError
        If a part is missing or of the wrong kind.
    """
    about, arrays = message.content.get(_ABOUT), message.content.get(_SHARED)
    if not isinstance(about, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise MalformedMessageError("the message holds no shared parameters or no round")
    round_index = about.get("round")
    if not isinstance(round_index, int):
        raise MalformedMessageError("the message's round is not a number")
    return round_index, state_from_arrays(arrays)


def read_counted(message: Message) -> int | None:
    """Return the last round in which the site's upload counted; None where that is not said."""
    about = message.content[_ABOUT]
    counted = about.get("counted") if isinstance(about, ConfigRecord) else None
    return counted if isinstance(counted, int) else None


def reply_with_upload(upload: Upload, receipt: Receipt) -> RecordDict:
    """Return what a site sends after a round, in answer to what it has received."""
    about: dict[str, ConfigRecordValues] = {
        "site": upload.site,
        "samples": int(upload.samples),
        "round": receipt.round_index,
        "nonce": receipt.nonce,
        "sent": receipt.sent,
    }
    return RecordDict(
        {
            _SHARED: arrays_from_state(upload.shared),
            _METRICS: _metric_record(upload.metrics),
            _ABOUT: ConfigRecord(about),
        }
    )


def read_upload(message: Message, expected: Receipt, like: State) -> Upload:
    """Return a site's upload, as it says; of its tensors nothing is checked yet but their form.

    Parameters
    ----------
    message
        The site's reply.
    expected
        What it must answer.
    like
        What an upload should look like: one that is much larger is not decoded.

    Raises
    ------
    MalformedMessageError
        If it answers something else, is too large, or a part is missing or of the wrong kind.
    """
    content = message.content if message.has_content() else RecordDict()
    about, arrays = content.get(_ABOUT), content.get(_SHARED)
    if not isinstance(about, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise MalformedMessageError("the upload holds no shared parameters or no description")
    _check_receipt(about, expected)
    size = sum(len(array.data) + len(name) for name, array in arrays.items())
    most = 2 * sum(t.numel() * t.element_size() for t in like.values()) + _SPARE_BYTES
    if size > most:
        raise MalformedMessageError(f"the upload has {size} bytes, more than {most}")
    site, samples = about.get("site"), about.get("samples")
    if not isinstance(site, str) or not isinstance(samples, int):
        raise MalformedMessageError("the upload's site or number of samples is of the wrong kind")
    return Upload(site, state_from_arrays(arrays), samples, read_metrics(message))


def uploaded_digest(message: Message) -> str:
    """Return the `wire_digest` of what a reply holds; empty where it holds no arrays."""
    arrays = message.content.get(_SHARED) if message.has_content() else None
    return wire_digest(arrays) if isinstance(arrays, ArrayRecord) else ""


def _check_receipt(about: ConfigRecord, expected: Receipt) -> None:
    said = about.get("round")
    if said != expected.round_index or isinstance(said, bool):
        raise MalformedMessageError(
            f"stale or replayed: it answers round {said!r}, not {expected.round_index}"
        )
    if about.get("nonce") != expected.nonce:
        raise MalformedMessageError("stale or replayed: it answers another message of this round")
    if about.get("sent") != expected.sent:
        raise MalformedMessageError("the site trained from other parameters than were sent to it")


def reply_with_metrics(metrics: Mapping[str, float]) -> RecordDict:
    """Return what a site sends at the end of the run."""
    return RecordDict({_METRICS: _metric_record(metrics)})


def read_metrics(message: Message) -> dict[str, float]:
    """Return a reply's scalars.

    Raises
    ------
    MalformedMessageError
        If there are none or too many, or one is not a single number with a plain name.
    """
    record = message.content.get(_METRICS) if message.has_content() else None
    if not isinstance(record, MetricRecord):
        raise MalformedMessageError("the reply holds no metrics")
    if len(record) > _MOST_METRICS:
        raise MalformedMessageError(f"the reply holds {len(record)} metrics, not {_MOST_METRICS}")
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if not _METRIC_NAME.fullmatch(name):
            raise MalformedMessageError(f"metric {name!r} has no plain name")
        if isinstance(value, list):
            raise MalformedMessageError(f"metric {name} is not a single number")
        metrics[name] = float(value)
    return metrics


def to_wire(message: Message, message_id: str) -> bytes:
    """Return the bytes of a message as they travel."""
    proto = message_to_proto(message)
    proto.metadata.message_id = message_id
    return bytes(proto.SerializeToString(deterministic=True))


def from_wire(wire: bytes) -> Message:
    """Return the message that the bytes hold; it shares no memory with the one that was sent."""
    return message_from_proto(ProtoMessage.FromString(wire))


def _metric_record(metrics: Mapping[str, float]) -> MetricRecord:
    return MetricRecord({name: float(value) for name, value in metrics.items()})
