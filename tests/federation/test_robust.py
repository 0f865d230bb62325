"""Robust averages by hand, and against sites that send what no honest one would."""

import pytest
import torch

from fedm2ct.federation.method import Upload, weighted_average
from fedm2ct.federation.robust import average_by, median, sites_cut, trimmed_mean

VALUES = [[1.0, 10.0], [2.0, -40.0], [4.0, 30.0], [8.0, 20.0], [100.0, 0.0]]


def uploads(values, samples=1):
    return [
        Upload(f"s{i}", {"w": torch.tensor(v), "n": torch.tensor(i)}, samples)
        for i, v in enumerate(values)
    ]


def test_median_by_hand():
    assert median(uploads(VALUES))["w"].tolist() == [4.0, 10.0]
    assert median(uploads(VALUES[:4]))["w"].tolist() == [3.0, 15.0]  # the middle two's mean
    assert median(uploads(VALUES))["n"].dtype == torch.int64


def test_trimmed_mean_by_hand():
    assert trimmed_mean(uploads(VALUES), 0.2)["w"].tolist() == pytest.approx([14 / 3, 10.0])
    assert trimmed_mean(uploads(VALUES), 0.4)["w"].tolist() == [4.0, 10.0]


@pytest.mark.parametrize(
    ("sites", "trim", "cut"), [(5, 0.2, 1), (4, 0.2, 1), (3, 0.2, 1), (10, 0.25, 3), (4, 0.4, 1)]
)
def test_a_share_of_few_sites_is_not_silently_none(sites, trim, cut):
    assert sites_cut(sites, trim) == cut


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_of_two_sites_nothing_tells_which_is_wrong(sites, rule):
    sent = uploads(VALUES[:sites])
    expected = weighted_average(sent)["w"]
    assert torch.equal(average_by(rule, 0.4)(sent)["w"], expected)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "mean"])
def test_without_uploads_there_is_no_average(rule):
    with pytest.raises(ValueError, match="no upload"):
        average_by(rule, 0.2)([])


def test_a_claimed_number_of_slices_gives_no_power():
    honest = uploads(VALUES[:3])
    greedy = [*honest[:2], Upload("s2", honest[2].shared, 10**6)]
    for rule in ("median", "trimmed-mean"):
        average = average_by(rule, 0.2)
        assert torch.equal(average(greedy)["w"], average(honest)["w"])


@pytest.mark.parametrize("attack", [lambda u: 1000 * u, lambda u: -u, lambda u: -5 * u])
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_one_of_five_sites_cannot_carry_the_result_away(attack, rule):
    draw = torch.Generator().manual_seed(5)
    direction = torch.randn(1000, generator=draw)
    honest = [direction + 0.3 * torch.randn(1000, generator=draw) for _ in range(5)]
    sent = [{"w": u} for u in (*honest[:4], attack(honest[4]))]
    fused = average_by(rule, 0.2)([Upload(f"s{i}", s, 1) for i, s in enumerate(sent)])["w"]
    plain = weighted_average([Upload(f"s{i}", s, 1) for i, s in enumerate(sent)])["w"]
    target = torch.stack(honest[:4]).mean(0)
    assert (fused - target).norm() < 0.4 * target.norm()
    assert (plain - target).norm() > (fused - target).norm()
    lowest, highest = torch.stack(honest[:4]).aminmax(dim=0)
    assert bool(((fused >= lowest) & (fused <= highest)).all())
