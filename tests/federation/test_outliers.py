"""Lengths and directions by hand."""

import math

import numpy as np
import pytest
import torch

from fedm2ct.federation.method import Upload
from fedm2ct.federation.outliers import (
    Limits,
    TrackRecord,
    cosine_to_mean,
    cosines_between,
    kinds,
    opposed,
    too_long,
    update_norm,
)

LIKE = {"w": torch.tensor([3.0, 4.0])}  # of length 5: the floor is 0.05


def moved(site, *step, samples=1):
    return Upload(site, {"w": LIKE["w"] + torch.tensor(step)}, samples)


def long_ones(uploads, record=None, limits=None):
    return too_long(uploads, "", LIKE, limits or Limits(), record or TrackRecord())


def test_ten_times_the_median_of_the_others():
    others = [moved("A", 1.0, 0.0), moved("B", 0.0, 2.0), moved("C", 3.0, 0.0)]
    assert long_ones([*others, moved("D", 19.99, 0.0)]) == {}
    found = long_ones([*others, moved("D", 20.5, 0.0)])
    assert list(found) == ["D"]
    assert found["D"] == (
        "its update is 10.2 times as long as is typical of this round, more than 10"
    )


def test_others_that_hardly_move_are_counted_at_the_floor():
    still = [moved("A", 0.0, 0.0), moved("B", 0.0, 0.0)]
    assert long_ones([*still, moved("C", 0.499, 0.0)]) == {}
    assert list(long_ones([*still, moved("C", 0.501, 0.0)])) == ["C"]


def test_a_hundred_times_the_last_rounds_also_for_one_site_alone():
    record = TrackRecord(lengths={"": [0.2, 0.1, 0.3]})
    assert long_ones([moved("A", 19.9, 0.0)], record) == {}
    found = long_ones([moved("A", 21.0, 0.0)], record)
    assert "105 times as long as was typical of the last rounds" in found["A"]
    assert long_ones([moved("A", 21.0, 0.0)], TrackRecord(lengths={"other": [0.2]})) == {}


def test_a_hundred_times_the_parameters_in_the_first_round():
    assert long_ones([moved("A", 499.0, 0.0)]) == {}
    found = long_ones([moved("A", 501.0, 0.0)])
    assert "100 times as long as the shared parameters themselves" in found["A"]


@pytest.mark.parametrize(("length", "refused"), [(999.0, []), (1001.0, ["C"])])
def test_changes_of_what_has_no_length_may_differ_more(length, refused):
    like = {"w": torch.zeros(2)}
    uploads = [Upload(s, {"w": torch.tensor([1.0, 0.0])}, 1) for s in "AB"]
    uploads.append(Upload("C", {"w": torch.tensor([0.0, length])}, 1))
    assert list(too_long(uploads, "", like, Limits(), TrackRecord())) == refused


@pytest.mark.parametrize("value", [1e300, 3e38])
def test_what_overflows_is_too_long(value):
    like = {"w": torch.zeros(2, dtype=torch.float64)}
    huge = [Upload(s, {"w": torch.full((2,), value, dtype=torch.float64)}, 1) for s in "AB"]
    small = Upload("C", {"w": torch.ones(2, dtype=torch.float64)}, 1)
    if value == 1e300:
        assert update_norm(huge[0].shared, like) == math.inf
    found = too_long([huge[0], small], "", like, Limits(), TrackRecord())
    assert list(found) == ["A"]


def test_the_record_keeps_first_claims_and_the_last_ten_medians():
    record = TrackRecord()
    for k in range(1, 13):
        record.note([moved("A", float(k), 0.0, samples=k), moved("B", 3.0 * k, 0.0)], LIKE)
    assert record.samples == {"A": 1, "B": 1}
    assert record.lengths[""] == pytest.approx([2.0 * k for k in range(3, 13)])
    assert record.typical("") == pytest.approx(15.0)
    assert record.typical("unknown") == 0.0
    record.note([], LIKE)
    record.note([moved("A", 0.0, 0.0)], LIKE)  # nobody moves: says nothing of how far one may
    assert len(record.lengths[""]) == 10
    assert TrackRecord.from_json(record.as_json()) == record


def test_kinds_are_told_by_their_prefix():
    like = {"shared.w": torch.zeros(1), "control.w": torch.ones(1), "plain": torch.ones(1)}
    assert {kind: list(state) for kind, state in kinds(like)} == {
        "shared": ["shared.w"],
        "control": ["control.w"],
        "": ["plain"],
    }


def test_cosines_by_hand():
    uploads = [moved("A", 2.0, 0.0), moved("B", 0.0, 5.0), moved("C", -1.0, 0.0), moved("D", 0, 0)]
    between = cosines_between(uploads, LIKE)
    assert between[:3, :3] == pytest.approx(np.array([[1, 0, -1], [0, 1, 0], [-1, 0, 1]]), abs=1e-6)
    assert between[3].tolist() == [0, 0, 0, 0]
    assert cosine_to_mean(between, 0, [1]) == pytest.approx(0.0, abs=1e-6)
    mean = (0.5, 0.5)  # of A and B, each of length one
    assert cosine_to_mean(between, 2, [0, 1]) == pytest.approx(-mean[0] / math.hypot(*mean))
    assert cosine_to_mean(between, 0, [3]) == 0.0


AGREEING = [
    moved("A", 1.0, 0.1),
    moved("B", 2.0, -0.1),
    moved("C", 0.5, 0.2),
    moved("E", 1.0, 0.0),
]


def test_who_points_away_while_the_others_agree():
    found = opposed([*AGREEING, moved("D", -3.0, 0.1)], LIKE, Limits())
    assert list(found) == ["D"]
    assert "points away from the others' (cosine -0.99)" in found["D"]
    assert "which agree with one another (at least 0.9" in found["D"]


@pytest.mark.parametrize(
    "uploads",
    [
        [*AGREEING, moved("D", 0.0, 1.0)],  # across is not away
        [*AGREEING, moved("D", -1.0, 1.1)],  # nor is this: an honest site may do so
        [*AGREEING[:3], moved("D", -3.0, 0.1)],  # three others outvote nobody
        [*AGREEING[:3], moved("C2", -0.5, -0.1), moved("D", -3.0, 0.1)],  # three against two
        [*AGREEING, moved("D", 0.0, 0.0)],
        [],
    ],
)
def test_who_is_not_outvoted(uploads):
    assert opposed(uploads, LIKE, Limits()) == {}


def test_changes_of_control_variates_have_no_direction_to_judge():
    like = {"w": torch.zeros(2)}
    uploads = [Upload(s, {"w": torch.tensor([1.0, 0.0])}, 1) for s in "ABC"]
    uploads.append(Upload("D", {"w": torch.tensor([-1.0, 0.0])}, 1))
    assert opposed(uploads, like, Limits()) == {}


def test_counters_have_no_direction():
    like = {"w": torch.tensor([3.0, 4.0]), "n": torch.tensor(5)}
    uploads = [
        Upload(u.site, {**u.shared, "n": torch.tensor(k)}, 1)
        for k, u in enumerate([*AGREEING, moved("D", -3.0, 0.1)])
    ]
    assert list(opposed(uploads, like, Limits())) == ["D"]


def test_a_record_that_does_not_say_what_counted_says_nothing():
    """A checkpoint of an earlier version: its sites took part, in which round is not known."""
    record = TrackRecord.from_json({"samples": {"A": 3, "B": 3}, "counted": {"B": 4}})
    assert [record.last_counted(site) for site in "ABC"] == [None, 4, 0]
