import pytest
import torch

from fedm2ct.data.simulate import PairedData
from fedm2ct.errors import FedM2CTError
from fedm2ct.learning.meta_set import ContributedMetaSet, SimulatedMetaSet
from tests import tiny

PUBLIC = [(tiny.scan("public-1", 1, 4), range(4)), (tiny.scan("public-2", 2, 5), range(1, 5))]


def simulated(seed=3, protocols=tiny.PROTOCOLS, held_out=0.25):
    return SimulatedMetaSet(PUBLIC, protocols, held_out, seed)


def slices_of(pairs: PairedData):
    return {image.numpy().tobytes() for image in pairs.truth}


def test_one_set_of_pairs_for_every_protocol():
    pairs = simulated().training(1)
    assert list(pairs) == ["A", "B"]
    for name, protocol in tiny.PROTOCOLS.items():
        assert pairs[name].projections.shape == (6, 1, *protocol.geometry.shape)
        assert pairs[name].truth.shape == (6, 1, 16, 16)


def test_each_round_has_its_own_noise_on_the_same_objects():
    source = simulated()
    first, again, second = source.training(1), simulated().training(1), source.training(2)
    for name in tiny.PROTOCOLS:
        assert torch.equal(first[name].projections, again[name].projections)
        assert torch.equal(first[name].clean, second[name].clean)
        assert not torch.equal(first[name].projections, second[name].projections)


def test_noise_depends_on_the_seed_and_the_protocol_and_not_on_the_global_state():
    torch.manual_seed(1)
    first = simulated().training(1)["A"].projections
    torch.manual_seed(2)
    assert torch.equal(simulated().training(1)["A"].projections, first)
    assert not torch.equal(simulated(seed=4).training(1)["A"].projections, first)
    twice = simulated(protocols={"A": tiny.FAN, "B": tiny.FAN}).training(1)
    assert not torch.equal(twice["A"].projections, twice["B"].projections)


def test_held_out_pairs_are_fixed_and_never_trained_on():
    source = simulated()
    held, again = source.held_out(), source.held_out()
    for name in tiny.PROTOCOLS:
        assert torch.equal(held[name].projections, again[name].projections)
        assert len(held[name].truth) == 2  # one of four slices of each scan
        for round_index in (1, 2):
            assert not slices_of(held[name]) & slices_of(source.training(round_index)[name])


def contributed(slices, held_out, trained=5, validated=4):
    """Return what sites give of that many slices that they train on and validate on."""
    pairs = [
        {name: tiny.paired(p, seed, count) for name, p in tiny.PROTOCOLS.items()}
        for seed, count in ((5, trained), (6, validated))
    ]
    return *pairs, ContributedMetaSet(*pairs, slices, held_out)


def test_alpha_is_searched_on_contributed_pairs_that_no_site_has_trained_on():
    trained, validated, source = contributed(4, 0.25)
    for name in tiny.PROTOCOLS:
        assert torch.equal(source.training(1)[name].truth, trained[name].truth[:3])
        assert torch.equal(source.held_out()[name].projections, validated[name].projections[:1])
    assert source.training(2) is source.training(1)


@pytest.mark.parametrize(("held_out", "kept"), [(0.01, 1), (0.99, 3)])
def test_there_is_always_a_pair_to_train_on_and_one_to_hold_out(held_out, kept):
    *_, source = contributed(4, held_out)
    assert len(source.held_out()["A"].truth) == kept
    assert len(source.training(1)["A"].truth) == 4 - kept


def test_a_single_slice_cannot_be_split():
    with pytest.raises(FedM2CTError, match=r"meta\.slices"):
        contributed(1, 0.25)
    with pytest.raises(FedM2CTError, match=r"meta\.slices"):
        SimulatedMetaSet([(PUBLIC[0][0], range(1))], tiny.PROTOCOLS, 0.25, 3)
