import pytest
import torch

from fedm2ct.learning.seeds import derive_seed, generator, seeded_initialisation


def numbers(source):
    return torch.rand(8, generator=source).tolist()


def test_a_seed_means_the_same_tomorrow():
    """A change here would make every manifest lie."""
    assert derive_seed(0, "weights", "A") == 6476076195478545975
    assert 0 <= derive_seed(1) < 2**63


@pytest.mark.parametrize(
    "other", [(1, "A", "batches", 1), (0, "B", "batches", 1), (0, "A", "batches", 2), (0, "A")]
)
def test_every_label_counts(other):
    assert derive_seed(*other) != derive_seed(0, "A", "batches", 1)


def test_a_generator_does_not_depend_on_the_global_state_nor_touch_it():
    torch.manual_seed(1)
    first = numbers(generator(3, "noise"))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert numbers(generator(3, "noise")) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_initialisation_is_reproducible_and_leaves_the_global_state():
    def weight():
        with seeded_initialisation(5, "weights"):
            return torch.nn.Linear(3, 3).weight

    torch.manual_seed(1)
    first = weight()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(weight(), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_failure_inside_initialisation_leaves_the_global_state():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded_initialisation(5, "weights"):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
