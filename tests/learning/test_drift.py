"""Terms against client drift are the gradients of what they say."""

import pytest
import torch
from torch import nn

from fedm2ct.learning.drift import linear, proximal, together

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


def test_terms_add_up():
    w = parameter(3.0, -2.0)
    together(proximal({"w": w}, ANCHOR, 0.5), linear({"w": w}, ANCHOR))(0)
    assert w.grad.tolist() == [12.0, 18.0]


def test_a_parameter_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="does not depend"):
        proximal({"w": nn.Parameter(torch.zeros(2))}, ANCHOR, 0.5)(0)
