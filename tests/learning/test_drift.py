"""Terms against client drift are the gradients of what they say."""

import pytest
import torch
from torch import nn

from fedm2ct.learning.drift import linear, proximal, together, weighted_contrast

ANCHOR = {"w": torch.tensor([1.0, -2.0])}


def parameter(*values, gradient=(10.0, 20.0)):
    made = nn.Parameter(torch.tensor(values))
    made.grad = torch.tensor(gradient)
    return made


def test_proximal_by_hand():
    w = parameter(3.0, -2.0)
    proximal({"w": w}, ANCHOR, 0.5)(0)
    assert w.grad.tolist() == [11.0, 20.0]


def test_proximal_is_the_gradient_of_its_term():
    w = nn.Parameter(torch.tensor([3.0, 5.0]))
    (0.25 * (w - ANCHOR["w"]).square().sum()).backward()
    expected = w.grad.clone()
    w.grad = torch.zeros(2)
    proximal({"w": w}, ANCHOR, 0.5)(0)
    assert torch.equal(w.grad, expected)


def test_a_linear_term_does_not_depend_on_where_one_is():
    for values in ((0.0, 0.0), (7.0, 7.0)):
        w = parameter(*values)
        linear({"w": w}, ANCHOR)(0)
        assert w.grad.tolist() == [11.0, 18.0]


def test_weighted_contrast_by_hand():
    """w = (3, 0): |w - (1, -2)| = 4, |w - (3, -8)| = 8; 2 (sign / 8 - 4 sign / 64)."""
    w = parameter(3.0, 0.0, gradient=(0.0, 0.0))
    away = {"w": torch.tensor([3.0, -8.0])}
    weighted_contrast({"w": w}, ANCHOR, away, 2.0)(0)
    assert w.grad.tolist() == [0.25, 0.25 - 0.125]


def test_weighted_contrast_is_the_gradient_of_its_term_over_all_parameters():
    source = torch.Generator().manual_seed(4)
    towards, away, values = (
        {n: torch.randn(s, generator=source) for n, s in (("a", (2, 3)), ("b", (4,)))}
        for _ in range(3)
    )
    made = {n: nn.Parameter(t.clone()) for n, t in values.items()}
    near = sum((made[n] - towards[n]).abs().sum() for n in made)
    far = sum((made[n] - away[n]).abs().sum() for n in made)
    (0.7 * near / far).backward()
    expected = {n: p.grad.clone() for n, p in made.items()}
    for p in made.values():
        p.grad = torch.zeros_like(p)
    weighted_contrast(made, towards, away, 0.7)(0)
    for name, p in made.items():
        assert torch.allclose(p.grad, expected[name], rtol=1e-5, atol=1e-7)


def test_weighted_contrast_adds_nothing_where_it_is_not_defined():
    w = parameter(1.0, -2.0)
    weighted_contrast({"w": w}, ANCHOR, ANCHOR, 2.0)(0)
    assert w.grad.tolist() == [10.0, 20.0]


def test_terms_add_up():
    w = parameter(3.0, -2.0)
    together(proximal({"w": w}, ANCHOR, 0.5), linear({"w": w}, ANCHOR))(0)
    assert w.grad.tolist() == [12.0, 18.0]


def test_a_parameter_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="does not depend"):
        proximal({"w": nn.Parameter(torch.zeros(2))}, ANCHOR, 0.5)(0)
