"""The training benchmark: its parts make the trainer's step, its times add up, its page is made."""

import json
import math
from copy import deepcopy

import pytest
import torch
import training
from training_parts import PARTS, Clock, step_in_parts, whole_step

from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def config(**changes):
    return tiny.config(**{"fedm2ct": {"lambda_private": 0.2, "lambda_shared": 0.3}, **changes})


def learned(**fields):
    return config(fedm2ct={"lambda_private": 0.2, "lambda_shared": 0.3, **fields})


@pytest.mark.parametrize(
    "chosen",
    [
        config(),
        config(model={"width": 2, "consistency": True}),
        learned(shared_input="learned", cascade_from="shared"),
        learned(shared_input="learned", coupling="side-by-side"),
    ],
)
def test_the_parts_make_the_whole_step(chosen):
    """Sums are taken in another order, which Adam would magnify: both start each step alike."""
    steps = [training.Step(chosen, tiny.FAN, 2, training.Variant("as is")) for _ in range(2)]
    for _ in range(3):  # what starts at zero must move before what lies behind it has gradients
        steps[1].model.load_state_dict(steps[0].model.state_dict())
        steps[1].optimiser.load_state_dict(deepcopy(steps[0].optimiser.state_dict()))
        losses = [
            whole_step(*_parts_of(steps[0])),
            step_in_parts(*_parts_of(steps[1]), Clock()),
        ]
        assert torch.equal(*losses)
    whole, parted = (dict(step.model.named_parameters()) for step in steps)
    for name, parameter in whole.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        torch.testing.assert_close(parted[name].grad, parameter.grad, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(parted[name], parameter, rtol=1e-5, atol=1e-7)


def _parts_of(step):
    return step.model, step.loss, step.optimiser, step.batch, step.variant.autocast


def test_the_step_is_the_trainers():
    chosen = config()
    step = training.Step(chosen, tiny.FAN, 2, training.Variant("as is"))
    expected = training.make_optimiser([step.model], chosen.training)
    for found, wanted in zip(step.optimiser.param_groups, expected.param_groups, strict=True):
        assert found == wanted
    convolution = step.model.private.first.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", training.VARIANTS)
def test_every_variant_takes_steps_that_lower_the_loss(name):
    step = training.Step(config(), tiny.FAN, 2, training.VARIANTS[name])
    losses = [whole_step(*_parts_of(step)) for _ in range(12)]
    assert math.isfinite(losses[-1]) and losses[-1] < losses[0]
    (kind,) = {type(step.optimiser)}
    group = step.optimiser.param_groups[0]
    assert kind is torch.optim.Adam
    assert bool(group["fused"]) == (training.VARIANTS[name].adam == "fused")
    assert bool(group["foreach"]) == (training.VARIANTS[name].adam == "foreach")


def test_times_add_up_and_the_page_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SETUPS", {"demo": ("fan", 2)})
    monkeypatch.setattr(training, "get_protocol", lambda name: tiny.FAN)
    monkeypatch.setattr(training, "load_config", lambda path: config())
    threads = torch.get_num_threads()
    out, page = tmp_path / "training.json", tmp_path / "page.md"
    repeats = "15"  # the median step is asked for its shares: one that was disturbed is not it
    arguments = ["--setups", "demo", "--threads", "1", "--repeats", repeats, "--variants", "as-is"]
    paths = ["--out", str(out), "--page", str(page)]
    assert training.main([*arguments, "foreach", *paths]) == 0
    torch.set_num_threads(threads)
    results = json.loads(out.read_text())
    assert [r["variant"] for r in results["steps"]] == ["as-is", "foreach"]
    for row in results["steps"]:
        inside = sum(sum(part.values()) for part in row["parts"].values())
        outside = row["outside_parts_share"] * row["seconds_in_parts"]
        assert inside + outside == pytest.approx(row["seconds_in_parts"]) and outside >= 0
        assert outside < 0.2 * row["seconds_in_parts"]
        projection = sum(row["parts"]["back-projection"].values())
        assert row["ct_share"] == pytest.approx(projection / row["seconds_in_parts"])
        assert set(row["parts"]) == set(PARTS) and row["repeats"] == int(repeats)
        assert all(row["parts"]["back-projection"].values())
    text = page.read_text()
    assert "below 25%" in text and "| Adam, foreach |" in text
    first = page.read_bytes()
    page.unlink()
    assert training.main(["--page-only", *paths]) == 0
    assert page.read_bytes() == first
