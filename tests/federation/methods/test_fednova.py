"""FedNova: the normalised average by hand, the steps of each site, what is refused."""

import pytest
import torch

from fedm2ct.federation.method import Upload, weighted_average
from fedm2ct.federation.methods import fednova
from fedm2ct.federation.methods.fednova import STEPS, NormalisingServer, steps_by_slices
from fedm2ct.federation.validation import Limits, validate_uploads
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
START = {"shared.w": torch.tensor([10.0])}


def upload(site, value, samples, steps):
    return Upload(site, {"shared.w": torch.tensor([value]), STEPS: torch.tensor(steps)}, samples)


def test_the_normalised_average_by_hand():
    """p = 1/4, 3/4; tau = 2, 6; tau_eff = 5; w = 10 - 5 (1/4 * 4/2 + 3/4 * -12/6) = 15."""
    uploads = [upload("A", 6.0, 1, 2), upload("B", 22.0, 3, 6)]
    fused = NormalisingServer(START, 10).aggregate(1, START, uploads)
    assert fused.shared["shared.w"].tolist() == [15.0]
    assert fused.metrics == {"effective_steps": 5.0}
    assert fused.shared.keys() == START.keys()


def test_equal_steps_make_it_the_plain_average():
    uploads = [upload("A", 6.0, 1, 4), upload("B", 22.0, 3, 4)]
    fused = NormalisingServer(START, 10).aggregate(1, START, uploads)
    plain = [Upload(u.site, {"shared.w": u.shared["shared.w"]}, u.samples) for u in uploads]
    assert torch.equal(fused.shared["shared.w"], weighted_average(plain)["shared.w"])


def test_a_site_that_only_repeats_its_step_does_not_count_for_more():
    """Twice the steps and twice the way: the same direction, so the same share in it."""
    once = [upload("A", 11.0, 1, 3), upload("B", 7.0, 1, 3)]
    twice = [upload("A", 11.0, 1, 3), upload("B", 4.0, 1, 6)]
    server = NormalisingServer(START, 10)
    a, b = (server.aggregate(1, START, u).shared["shared.w"] - 10.0 for u in (once, twice))
    assert (b / a).tolist() == pytest.approx([4.5 / 3])


@pytest.mark.parametrize("steps", [0, -4, 11])
def test_an_impossible_number_of_steps_is_refused(steps):
    server = NormalisingServer(START, 10)
    uploads = [upload("A", 11.0, 1, 3), upload("B", 11.0, 1, steps), upload("C", 11.0, 1, 10)]
    accepted, (rejected,) = validate_uploads(
        uploads, server.upload_like(START), Limits(), server.fault
    )
    assert [u.site for u in accepted] == ["A", "C"]
    assert rejected.reason == f"its number of local steps is {steps}, outside 1..10"


def test_steps_are_in_proportion_to_slices_and_the_same_in_total():
    assert steps_by_slices({"A": 4, "B": 6}, 5) == {"A": 4, "B": 6}
    assert steps_by_slices({"A": 1, "B": 999}, 5) == {"A": 1, "B": 10}
    assert steps_by_slices({"A": 7, "B": 7, "C": 7}, 5) == {"A": 5, "B": 5, "C": 5}


def test_sites_take_and_report_these_steps():
    halves = fednova.build(tiny.setup(training={"local_steps": 5}))
    start = halves.server.initial_shared()
    for name, expected in (("A", 4), ("B", 6)):
        sent = halves.clients[name].fit(1, start).shared
        assert int(sent[STEPS]) == expected
        taken = {int(e["step"]) for e in halves.trainers[name].optimiser.state.values()}
        assert taken == {expected}
