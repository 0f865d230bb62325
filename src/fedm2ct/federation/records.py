"""Between this project's values and Flower's records, and between messages and bytes.

Only arrays, numbers and short texts cross: nothing is pickled, and nothing passes by reference.
"""

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from torch import Tensor

from fedm2ct.federation.method import State, Upload

_SHARED = "shared"
_METRICS = "metrics"
_ABOUT = "about"


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
    state: State = {}
    for name, array in record.items():
        try:
            state[name] = torch.from_numpy(array.numpy().copy())
        except (TypeError, ValueError, EOFError, OSError) as error:
            raise MalformedMessageError(f"parameter {name} cannot be decoded") from error
    return state


def download(arrays: ArrayRecord, round_index: int) -> RecordDict:
    """Return what the server sends: the shared parameters and the number of the round."""
    return RecordDict({_SHARED: arrays, _ABOUT: ConfigRecord({"round": round_index})})


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


def reply_with_upload(upload: Upload) -> RecordDict:
    """Return what a site sends after a round."""
    return RecordDict(
        {
            _SHARED: arrays_from_state(upload.shared),
            _METRICS: _metric_record(upload.metrics),
            _ABOUT: ConfigRecord({"site": upload.site, "samples": int(upload.samples)}),
        }
    )


def read_upload(message: Message) -> Upload:
    """Return a site's upload, as it says; nothing of it is checked yet but its form.

    Raises
    ------
    MalformedMessageError
        If a part is missing or of the wrong kind.
    """
    about, arrays = message.content.get(_ABOUT), message.content.get(_SHARED)
    if not isinstance(about, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise MalformedMessageError("the upload holds no shared parameters or no description")
    site, samples = about.get("site"), about.get("samples")
    if not isinstance(site, str) or not isinstance(samples, int):
        raise MalformedMessageError("the upload's site or number of samples is of the wrong kind")
    return Upload(site, state_from_arrays(arrays), samples, read_metrics(message))


def reply_with_metrics(metrics: Mapping[str, float]) -> RecordDict:
    """Return what a site sends at the end of the run."""
    return RecordDict({_METRICS: _metric_record(metrics)})


def read_metrics(message: Message) -> dict[str, float]:
    """Return a reply's scalars.

    Raises
    ------
    MalformedMessageError
        If there are none, or one is not a single number.
    """
    record = message.content.get(_METRICS)
    if not isinstance(record, MetricRecord):
        raise MalformedMessageError("the reply holds no metrics")
    metrics: dict[str, float] = {}
    for name, value in record.items():
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
