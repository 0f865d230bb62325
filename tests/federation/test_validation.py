import re

import pytest
import torch

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import Upload
from fedm2ct.federation.validation import (
    Limits,
    Rejected,
    TrackRecord,
    check_aggregate,
    update_norm,
    validate_uploads,
)

SHARED = {"w": torch.zeros(2, 2), "b": torch.ones(2)}


def upload(site, step=0.1, samples=10, **changed):
    state = {name: value + step for name, value in SHARED.items()} | changed
    return Upload(site, {n: v for n, v in state.items() if v is not None}, samples)


def reasons(uploads, limits=None):
    accepted, rejected = validate_uploads(uploads, SHARED, limits or Limits())
    assert [u.site for u in accepted] == sorted(u.site for u in accepted)
    return {r.site: r.reason for r in rejected}, [u.site for u in accepted]


def test_good_uploads_pass_sorted_by_site():
    assert reasons([upload("C"), upload("A"), upload("B")]) == ({}, ["A", "B", "C"])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (upload("B", w=None), "parameter w is missing"),
        (upload("B", extra=torch.ones(1)), "parameter extra is not shared"),
        (upload("B", w=torch.zeros(1, 2)), r"parameter w has shape \[1, 2\], not \[2, 2\]"),
        (upload("B", w=torch.zeros(2, 2).double()), "parameter w is torch.float64"),
        (upload("B", b=torch.tensor([1.0, float("nan")])), "parameter b holds NaN"),
        (upload("B", b=torch.tensor([1.0, float("-inf")])), "parameter b holds NaN or inf"),
        (upload("B", samples=0), "samples is 0"),
        (upload("B", samples=-5), "samples is -5"),
        (upload("B", samples=10**9), "samples is 1000000000"),
        (upload("B", samples=True), "samples is True"),
        (upload("B", samples=2.5), "samples is 2.5"),
        (upload("B", step=1e6), "times as long as is typical"),
        (upload("B", step=3e38), "times as long as is typical"),
    ],
)
def test_offender_is_dropped_with_its_reason(bad, reason):
    found, accepted = reasons([upload("A"), bad, upload("C")])
    assert accepted == ["A", "C"]
    assert list(found) == ["B"]
    assert re.search(reason, found["B"])


def test_second_upload_under_one_name_is_dropped():
    found, accepted = reasons([upload("A"), upload("A", step=0.2), upload("B")])
    assert accepted == ["A", "B"] and "second upload" in found["A"]


def test_updates_that_differ_by_small_factors_pass():
    assert reasons([upload("A", 0.01), upload("B", 0.05), upload("C", 0.09)])[1] == ["A", "B", "C"]


def test_site_that_does_not_move_makes_no_offender_of_the_rest():
    shared = {name: value + 1 for name, value in SHARED.items()}
    still = Upload("A", shared, 1)
    moving = Upload("B", {name: value + 0.05 for name, value in shared.items()}, 1)
    accepted, rejected = validate_uploads([still, moving], shared, Limits())
    assert len(accepted) == 2 and not rejected


def test_one_site_alone_is_held_against_the_parameters_only():
    assert reasons([upload("A", 50)]) == ({}, ["A"])
    found, accepted = reasons([upload("A", 1e6)])
    assert accepted == [] and "as long as the shared parameters themselves" in found["A"]


def test_samples_may_double_but_not_more():
    record = TrackRecord()
    for samples, expected in ((10, None), (20, None), (5, None), (21, 10), (4, 10), (10**6, 10)):
        _, rejected = validate_uploads(
            [upload("A", samples=samples)], SHARED, Limits(), record=record
        )
        said = [r.reason for r in rejected]
        assert said == (
            [f"samples is {samples}, yet it was 10 in an earlier round"] if expected else []
        )


def test_a_reason_is_one_printable_line():
    refusal = Rejected("A\nB", "parameter \x1b[31m\u2028" + "x" * 1000 + " is not shared")
    assert refusal.site == "A\ufffdB"
    assert refusal.reason.isprintable() and len(refusal.reason) == 300
    assert refusal.reason.endswith("xxx...")


def sends_more(site, control=1.0, step=0.1):
    """Return an upload with tensors of a second kind, much longer than the parameters' change."""
    return Upload(
        site, {"shared.w": torch.full((3,), step), "control.w": torch.full((3,), control)}, 1
    )


def test_each_kind_of_tensor_has_a_typical_length_of_its_own():
    like = {"shared.w": torch.zeros(3), "control.w": torch.zeros(3)}
    good = [sends_more(site, 1000.0) for site in "AB"]
    assert len(validate_uploads([*good, sends_more("C", 1000.0)], like, Limits())[0]) == 3
    for bad in (sends_more("C", 1e7), sends_more("C", 1000.0, step=1e4)):
        accepted, (rejected,) = validate_uploads([*good, bad], like, Limits())
        assert [u.site for u in accepted] == ["A", "B"]
        assert rejected.site == "C" and "times as long" in rejected.reason


def test_an_offender_in_one_kind_does_not_count_as_typical_of_another():
    like = {"shared.w": torch.zeros(3), "control.w": torch.zeros(3)}
    uploads = [sends_more("A", 1.0), sends_more("B", 1e6, step=1e6), sends_more("C", 1e6)]
    accepted, rejected = validate_uploads(uploads, like, Limits())
    assert rejected[0].site == "B"
    assert {u.site for u in accepted} <= {"A", "C"}


def test_the_method_s_own_check_comes_after_the_form():
    asked = []

    def fault(upload):
        asked.append(upload.site)
        return "too modest" if upload.site == "A" else None

    uploads = [upload("A"), upload("B"), upload("C", w=None)]
    accepted, rejected = validate_uploads(uploads, SHARED, Limits(), fault)
    assert asked == ["A", "B"] and [u.site for u in accepted] == ["B"]
    assert {r.site: r.reason for r in rejected} == {
        "A": "too modest",
        "C": "parameter w is missing",
    }


def test_empty_shared_state_is_valid():
    accepted, rejected = validate_uploads([Upload("A", {}, 1), Upload("B", {}, 1)], {}, Limits())
    assert len(accepted) == 2 and not rejected


def test_update_norm_by_hand_leaves_counters_out():
    before = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(0)}
    after = {"w": torch.tensor([4.0, 6.0]), "n": torch.tensor(1000)}
    assert update_norm(after, before) == 5.0


def test_aggregate_must_be_finite_and_of_the_same_form():
    check_aggregate(2, SHARED, SHARED)
    with pytest.raises(FedM2CTError, match=r"round 2: .*parameter b holds NaN"):
        check_aggregate(2, {**SHARED, "b": torch.full((2,), float("nan"))}, SHARED)
    with pytest.raises(FedM2CTError, match="parameter b is missing"):
        check_aggregate(2, {"w": SHARED["w"]}, SHARED)
