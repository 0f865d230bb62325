"""Packed content is the same content, in few pieces; anything else is refused."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedm2ct.federation import packing
from fedm2ct.federation.packing import packed, unpacked
from fedm2ct.federation.records import MalformedMessageError


def content(arrays=40):
    rng = np.random.default_rng(3)
    tensors = {f"layer-{k}": Array(rng.normal(size=(3, k)).astype("f4")) for k in range(arrays)}
    return RecordDict(
        {
            "shared": ArrayRecord(tensors),
            "metrics": MetricRecord({"loss": 0.25}),
            "about": ConfigRecord({"round": 3, "site": "A"}),
        }
    )


@pytest.mark.parametrize("piece", [packing.PIECE_BYTES, 100])
def test_what_was_packed_comes_out(piece, monkeypatch):
    monkeypatch.setattr(packing, "PIECE_BYTES", piece)
    before = content()
    assert unpacked(packed(before)) == before
    assert unpacked(packed(RecordDict())) == RecordDict()


def test_packed_content_is_few_objects():
    assert len(get_all_nested_objects(content())) > 80
    assert len(get_all_nested_objects(packed(content()))) == 2


@pytest.mark.parametrize(
    "strange",
    [
        content(),
        RecordDict({"piece-0001": ConfigRecord({"bytes": b""})}),
        RecordDict({"piece-0000": ConfigRecord({"bytes": "text"})}),
        RecordDict({"piece-0000": ConfigRecord({"bytes": b"\xff\xff\xff"})}),
        RecordDict({"piece-0000": MetricRecord({"bytes": 1})}),
    ],
)
def test_what_is_not_packed_is_refused(strange):
    with pytest.raises(MalformedMessageError):
        unpacked(strange)
