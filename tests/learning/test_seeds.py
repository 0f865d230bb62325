import pytest
import torch

from fedm2ct.learning.seeds import (
    derive_secret,
    derive_seed,
    generator,
    normal,
    secret_generator,
    seeded_initialisation,
    uniform,
)


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


def test_every_bit_of_a_secret_counts():
    """PyTorch's own generator takes the low 32 bits of a seed, and those can be tried."""
    secret = derive_secret(0, "A", "privacy")
    base = numbers_of(secret_generator(secret, "A", "noise", 1))
    assert numbers_of(secret_generator(secret, "A", "noise", 1)) == base
    for bit in range(8 * len(secret)):
        other = (int.from_bytes(secret, "big") ^ 1 << bit).to_bytes(len(secret), "big")
        assert numbers_of(secret_generator(other, "A", "noise", 1)) != base
    for labels in (("B", "noise", 1), ("A", "noise", 2), ("A", "slices", 1)):
        assert numbers_of(secret_generator(secret, *labels)) != base


def test_a_secret_generator_has_a_key_of_128_bits():
    key = secret_generator(bytes(32), "A").bit_generator.state["state"]["key"]
    assert key.nbytes == 16 and key.all()


def numbers_of(source):
    return source.standard_normal(4).tolist()


@pytest.mark.parametrize("source", [generator(3, "a"), secret_generator(bytes(32), "a")])
def test_numbers_are_distributed_as_they_should_be(source):
    deviates, shares = normal(source, (100, 1000), torch.float64), uniform(source, 100_000)
    assert deviates.shape == (100, 1000) and deviates.dtype == torch.float64
    assert abs(float(deviates.mean())) < 0.02 and float(deviates.std()) == pytest.approx(
        1, abs=0.02
    )
    assert float(shares.min()) >= 0 and float(shares.max()) < 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    assert normal(source, ()).shape == () and normal(source, ()).dtype == torch.float32
