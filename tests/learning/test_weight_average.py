import pytest
import torch
from torch import nn

from fedm2ct.learning.weight_average import WeightAverage
from tests import tiny


def model_of(value):
    model = nn.Linear(1, 1, bias=True)
    with torch.no_grad():
        model.weight.fill_(value)
        model.bias.fill_(-value)
    return model


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_mean_by_hand():
    model = model_of(1.0)
    average = WeightAverage(model, 0.2)
    fill(model, 2.0)
    average.update()  # (1 + 1) / (10 + 1) = 0.1818 is less than 0.2
    fill(model, 4.0)
    average.update()  # 3 / 12 is more
    first = 2.0 - 2 / 11
    assert float(average.means["weight"]) == pytest.approx(0.2 * first + 0.8 * 4.0)


def test_model_has_the_mean_for_a_while_and_then_its_own():
    model = model_of(1.0)
    average = WeightAverage(model, 0.9)
    fill(model, 3.0)
    with average.in_place():
        assert model.weight.item() == 1.0 and model.bias.item() == -1.0
    assert model.weight.item() == model.bias.item() == 3.0
    assert float(average.means["bias"]) == -1.0


def test_restart_is_of_what_the_prefix_names():
    model = model_of(1.0)
    average = WeightAverage(model, 0.9)
    fill(model, 3.0)
    average.restart("weight")
    assert float(average.means["weight"]) == 3.0 and float(average.means["bias"]) == -1.0


def test_state_makes_a_round_trip():
    model = model_of(1.0)
    average = WeightAverage(model, 0.9)
    fill(model, 3.0)
    average.update()
    other = WeightAverage(model_of(0.0), 0.9)
    other.load_state(average.state())
    assert other.steps == 1 and tiny.same(other.state(), average.state())
