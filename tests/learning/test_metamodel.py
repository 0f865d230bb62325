import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedm2ct.learning.losses import l2
from fedm2ct.learning.meta_set import ContributedMetaSet
from fedm2ct.learning.metamodel import Metamodel, MetaSchedule, interpolate, line_search
from fedm2ct.learning.seeds import seeded_initialisation
from fedm2ct.model.prompt import condition_vector
from fedm2ct.model.ts_iradonmap import ModelSpec, SharedNetwork, TSiRadonMAP
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
SPEC = ModelSpec(private=None, width=2)


def metamodel(spec=SPEC, steps=4, seed=3):
    """Return a metamodel of two protocols with a fixed meta-set."""
    with seeded_initialisation(seed, "test"):
        features = len(condition_vector(tiny.PARALLEL)) if spec.prompted else None
        network = SharedNetwork("unet", spec.width, features)
        twins = {name: TSiRadonMAP(p, spec) for name, p in tiny.PROTOCOLS.items()}
    trained, validated = (
        {name: tiny.paired(p, part) for name, p in tiny.PROTOCOLS.items()} for part in (7, 8)
    )
    source = ContributedMetaSet(trained, validated, 4, 0.5)
    schedule = MetaSchedule(steps, tiny.training(learning_rate=5e-3))
    return Metamodel(network, twins, source, schedule, l2, seed, torch.device("cpu"))


def start_of(meta):
    return {name: tensor.clone() for name, tensor in meta.network.state_dict().items()}


def test_interpolate_by_hand():
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    assert interpolate(a, b, 0.25)["w"].tolist() == [1.5, 1.0]
    assert tiny.same(interpolate(a, b, 0.0), a) and tiny.same(interpolate(a, b, 1.0), b)


@pytest.mark.parametrize("sixteenths", range(17))
def test_line_search_finds_a_minimum_on_its_grid(sixteenths):
    best = sixteenths / 16
    assert line_search(lambda alpha: (alpha - best) ** 2) == best


@given(st.floats(-1, 2))
def test_line_search_comes_close_to_any_minimum(best):
    found = line_search(lambda alpha: (alpha - best) ** 2)
    assert abs(found - min(1.0, max(0.0, best))) <= 1 / 16


@given(st.lists(st.floats(0, 1), min_size=17, max_size=17))
def test_line_search_is_never_worse_than_either_end(errors):
    def error(alpha):
        return errors[round(alpha * 16)]

    alpha = line_search(error)
    assert 0 <= alpha <= 1
    assert error(alpha) <= min(error(0.0), error(1.0))


def test_line_search_asks_for_no_alpha_twice_and_prefers_the_smaller():
    asked = []
    assert line_search(lambda alpha: asked.append(alpha) or 1.0) == 0.0
    assert len(asked) == len(set(asked))


def test_training_starts_from_the_average_and_moves_away():
    meta = metamodel()
    start = {name: tensor + 0.01 for name, tensor in start_of(meta).items()}
    trained = meta.train(start, 1)
    assert trained.keys() == start.keys() and not tiny.same(trained, start)
    reached = max(float((trained[n] - start[n]).abs().max()) for n in start)
    assert reached <= 1.01 * 4 * 5e-3  # Adam moves a number by its rate at most (4 steps)


def test_training_depends_on_seed_and_round_alone():
    start = start_of(metamodel())
    torch.manual_seed(1)
    first = metamodel().train(start, 1)
    torch.manual_seed(2)
    assert tiny.same(metamodel().train(start, 1), first)
    assert not tiny.same(metamodel().train(start, 2), first)


def test_training_lowers_the_held_out_error():
    meta = metamodel(steps=60)
    start = start_of(meta)
    untrained = meta.held_out_error(start)
    assert meta.held_out_error(meta.train(start, 1)) < untrained


def test_held_out_error_is_the_mean_over_protocols():
    """Untrained, the network changes nothing and the twins are FBP."""
    meta = metamodel()
    errors = []
    for name, pairs in meta.source.held_out().items():
        image = meta.twins[name].analytical(pairs.projections)
        errors.append(float((image - pairs.truth).square().mean()))
    assert meta.held_out_error(start_of(meta)) == pytest.approx(sum(errors) / 2, rel=1e-3)


def test_a_given_alpha_is_used_as_it_is():
    meta = metamodel()
    a = start_of(meta)
    b = {name: tensor + 1 for name, tensor in a.items()}
    fused, alpha = meta.fuse(a, b, 0.5)
    assert alpha == 0.5 and tiny.same(fused, interpolate(a, b, 0.5))


def test_a_searched_alpha_is_the_best_of_those_tried():
    meta = metamodel(steps=20)
    start = start_of(meta)
    good, bad = meta.train(start, 1), {n: torch.full_like(t, 0.5) for n, t in start.items()}
    fused, alpha = meta.fuse(start, bad, None)
    assert alpha == 0.0 and tiny.same(fused, start)  # a bad metamodel is left out
    fused, alpha = meta.fuse(bad, good, None)
    assert alpha == 1.0 and tiny.same(fused, good)
    fused, alpha = meta.fuse(start, good, None)
    assert meta.held_out_error(fused) <= meta.held_out_error(start)


def test_a_restored_metamodel_goes_on_to_the_same_bits():
    whole, first, second = metamodel(), metamodel(), metamodel(seed=3)
    start = start_of(whole)
    middle = whole.train(start, 1)
    expected = whole.train(middle, 2)
    assert tiny.same(first.train(start, 1), middle)
    second.load_state({name: tensor.contiguous() for name, tensor in first.state().items()})
    assert tiny.same(second.train(middle, 2), expected)
    assert tiny.same(second.state(), whole.state())


def test_twins_share_the_network_and_keep_their_own_projections():
    meta = metamodel()
    assert all(twin.shared is meta.network for twin in meta.twins.values())
    meta.train(start_of(meta), 1)
    changes = [twin.sinogram.filter_change for twin in meta.twins.values()]
    assert all(bool(change.any()) for change in changes)  # both were learned


def test_without_learned_projections_only_the_network_is_trained():
    meta = metamodel(ModelSpec(private=None, width=2, learn_projection=False))
    before = {n: t.clone() for n, t in meta.twins["A"].private_state().items()}
    meta.train(start_of(meta), 1)
    assert tiny.same(meta.twins["A"].private_state(), before)
