"""All of a message's content as a few pieces of bytes, for the way across a network.

Flower moves every tensor of a message as two objects, one HTTP call each at every hop: a network
of forty layers is some hundred calls a hop. Packed, a message is three objects, and one more
for every 16 MiB.
"""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError

from fedm2ct.federation.records import MalformedMessageError

PIECE_BYTES = 16 * 2**20
"""The proxy lets calls of half as much again pass."""
_BYTES = "bytes"


def packed(content: RecordDict) -> RecordDict:
    """Return content as pieces of bytes."""
    wire: bytes = recorddict_to_proto(content).SerializeToString(deterministic=True)
    pieces = [wire[at : at + PIECE_BYTES] for at in range(0, max(len(wire), 1), PIECE_BYTES)]
    return RecordDict({_name(k): ConfigRecord({_BYTES: piece}) for k, piece in enumerate(pieces)})


def unpacked(content: RecordDict) -> RecordDict:
    """Undo `packed`.

    Raises
    ------
    MalformedMessageError
        If the content is not what `packed` returns.
    """
    pieces = []
    for number in range(len(content)):
        record = content.get(_name(number))
        piece = record.get(_BYTES) if isinstance(record, ConfigRecord) else None
        if not isinstance(piece, bytes):
            raise MalformedMessageError("the message is not packed")
        pieces.append(piece)
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(b"".join(pieces)))
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise MalformedMessageError("the message cannot be unpacked") from error


def packing(message: Message, context: Context, app: ClientAppCallable) -> Message:
    """Let an app answer packed messages: a mod, in Flower's words."""
    message.content = unpacked(message.content)
    reply = app(message, context)
    if reply.has_content():
        reply.content = packed(reply.content)
    return reply


def _name(number: int) -> str:
    return f"piece-{number:04d}"
