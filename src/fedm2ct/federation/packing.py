"""All of a message's content as one array of bytes, for the way across a network.

Flower moves every tensor of a message as objects of their own, one HTTP call each at every hop: a
network of forty layers is several hundred calls a round. Packed, a message is five objects, and one
more for every 5 MB.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError

from fedm2ct.federation.records import MalformedMessageError

_PACKED = "packed"


def packed(content: RecordDict) -> RecordDict:
    """Return content as one array."""
    wire = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return RecordDict({_PACKED: ArrayRecord({_PACKED: Array(np.frombuffer(wire, np.uint8))})})


def unpacked(content: RecordDict) -> RecordDict:
    """Undo `packed`.

    Raises
    ------
    MalformedMessageError
        If the content is not what `packed` returns.
    """
    record = content.get(_PACKED)
    if not isinstance(record, ArrayRecord) or list(record) != [_PACKED]:
        raise MalformedMessageError("the message is not packed")
    try:
        wire = record[_PACKED].numpy()
        if wire.dtype != np.uint8:
            raise ValueError("not bytes")
        return recorddict_from_proto(ProtoRecordDict.FromString(wire.tobytes()))
    except (DecodeError, ValueError, TypeError, KeyError, EOFError, OSError) as error:
        raise MalformedMessageError("the message cannot be unpacked") from error


def packing(message: Message, context: Context, app: ClientAppCallable) -> Message:
    """Let an app answer packed messages: a mod, in Flower's words."""
    message.content = unpacked(message.content)
    reply = app(message, context)
    if reply.has_content():
        reply.content = packed(reply.content)
    return reply
