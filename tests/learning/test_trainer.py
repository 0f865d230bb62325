import math
from itertools import pairwise

import pytest
import torch

from fedm2ct.errors import FedM2CTError
from fedm2ct.learning.losses import l2, validation_psnr
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.seeds import seeded_initialisation
from fedm2ct.learning.trainer import (
    SiteTrainer,
    best_weight,
    learning_rate_factor,
    load_optimiser_state,
    make_optimiser,
    optimiser_state,
)
from fedm2ct.model.ts_iradonmap import ModelSpec, TSiRadonMAP
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
LOCAL = ModelSpec(shared=None, width=2)
LOSS = supervised_loss(l2)
CPU = torch.device("cpu")


def trainer(name="A", spec=LOCAL, seed=3, **schedule):
    task = tiny.task(name)
    with seeded_initialisation(seed, "test"):
        model = TSiRadonMAP(task.protocol, spec)
    return SiteTrainer(task, model, tiny.training(**schedule), seed, CPU)


def test_schedule_is_a_cosine_from_one_to_its_final_value():
    factors = [learning_rate_factor(step, 11, 0.2) for step in range(11)]
    assert factors[0] == 1.0 and factors[-1] == pytest.approx(0.2)
    assert factors[5] == pytest.approx(0.6)
    assert all(a > b for a, b in pairwise(factors))
    assert learning_rate_factor(99, 11, 0.2) == pytest.approx(0.2)
    assert learning_rate_factor(0, 1, 0.2) == 1.0


def test_each_step_takes_its_rate_from_the_schedule():
    site = trainer(learning_rate=1e-2, projection_learning_rate=1e-3, final_rate=0.5)
    site.train_round(3, LOSS)  # ends with the last of 3 x 2 steps
    rates = {group["base"]: group["lr"] for group in site.optimiser.param_groups}
    assert rates == {1e-2: pytest.approx(5e-3), 1e-3: pytest.approx(5e-4)}


def test_projection_has_a_rate_of_its_own_and_stays_if_it_is_not_learned():
    learned, fixed = (
        trainer(),
        trainer(spec=ModelSpec(shared=None, width=2, learn_projection=False)),
    )
    bound = {
        id(p)
        for n, p in learned.model.named_parameters()
        if n.startswith(("sinogram.", "backprojection."))
    }
    groups = learned.optimiser.param_groups
    assert [{id(p) for p in g["params"]} == bound for g in groups].count(True) == 1
    assert sum(len(g["params"]) for g in groups) == len(list(learned.model.parameters()))
    before = fixed.model.sinogram.filter_change.clone()
    fixed.train_round(1, LOSS)
    assert torch.equal(fixed.model.sinogram.filter_change, before)
    learned.train_round(1, LOSS)
    assert not torch.equal(learned.model.sinogram.filter_change, before)


def test_a_correction_changes_what_the_optimiser_is_given():
    """A gradient of zero everywhere leaves everything where it is."""
    site, seen = trainer(), []
    before = {n: t.clone() for n, t in site.model.state_dict().items()}

    def erase(index):
        seen.append(index)
        for parameter in site.model.parameters():
            parameter.grad.zero_()

    site.train_round(1, LOSS, erase)
    assert seen == [0, 1]
    assert tiny.same(dict(site.model.state_dict()), before)


def test_another_number_of_steps_covers_the_same_stretch_of_the_schedule(monkeypatch):
    def positions(steps):
        site, seen = trainer(), []
        monkeypatch.setattr(site, "step", lambda at, *_: seen.append(at) or torch.zeros(()))
        site.train_round(2, LOSS, steps=steps)
        return seen

    assert positions(None) == positions(2) == [2, 3]
    assert positions(4) == [2, 2.5, 3, 3.5]
    assert positions(1) == [2]


def test_a_parameter_that_models_share_is_optimised_once():
    first, second = (
        trainer(spec=ModelSpec(None, "unet", 2)),
        trainer(spec=ModelSpec(None, "unet", 2)),
    )
    second.model.shared = first.model.shared
    optimiser = make_optimiser([first.model, second.model], tiny.training())
    members = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert {id(p) for p in first.model.shared.parameters()} <= set(members)


def test_batches_follow_from_seed_site_and_round():
    def batches(name="A", seed=3, round_index=1):
        return torch.randint(1000, (6,), generator=trainer(name, seed=seed).batches(round_index))

    torch.manual_seed(0)
    first = batches()
    torch.manual_seed(1)
    assert torch.equal(batches(), first)
    for other in (batches("B"), batches(seed=4), batches(round_index=2)):
        assert not torch.equal(other, first)


def test_training_leaves_the_global_random_state_and_lowers_the_loss():
    site = trainer(local_steps=30, learning_rate=1e-2)
    before = torch.get_rng_state()
    losses = [site.train_round(r, LOSS) for r in (1, 2, 3)]
    site.validate()
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[2] < losses[1] < losses[0]


def test_a_restored_trainer_goes_on_to_the_same_bits():
    whole, first, second = trainer(), trainer(), trainer(seed=3)
    for round_index in (1, 2):
        whole.train_round(round_index, LOSS)
        whole.validate()
    first.train_round(1, LOSS)
    first.validate()
    with torch.no_grad():  # whatever the fresh one starts from must be overwritten
        for parameter in second.model.parameters():
            parameter.add_(1.0)
    second.load_state({name: tensor.contiguous() for name, tensor in first.state().items()})
    assert second.best_psnr == first.best_psnr
    second.train_round(2, LOSS)
    second.validate()
    assert tiny.same(second.state(), whole.state())


def test_restored_moments_lie_in_memory_as_their_parameters_do():
    """The fused optimiser would pair them up wrongly; a file keeps no layout."""
    site, other = trainer(), trainer()
    site.train_round(1, LOSS)
    stored = {n: t.contiguous() for n, t in optimiser_state(site.optimiser).items()}
    load_optimiser_state(other.optimiser, stored)
    strides = set()
    for parameter, entry in other.optimiser.state.items():
        assert entry["exp_avg"].stride() == entry["exp_avg_sq"].stride() == parameter.stride()
        strides.add(parameter.is_contiguous())
    assert strides == {True, False}  # some parameters do have another layout
    assert tiny.same(optimiser_state(other.optimiser), stored)


def test_optimiser_state_makes_a_round_trip():
    site = trainer()
    site.train_round(1, LOSS)
    stored = optimiser_state(site.optimiser)
    assert any(name.endswith(".exp_avg_sq") for name in stored)
    other = trainer()
    load_optimiser_state(other.optimiser, stored)
    assert tiny.same(optimiser_state(other.optimiser), stored)
    other.train_round(2, LOSS)
    assert not tiny.same(optimiser_state(other.optimiser), stored)
    assert tiny.same(optimiser_state(site.optimiser), stored)  # and what is stored is a copy


def test_the_best_model_by_validation_is_kept():
    site = trainer()
    good = site.validate()["val_psnr_db"]
    best = {name: tensor.clone() for name, tensor in site.model.state_dict().items()}
    with torch.no_grad():
        site.model.backprojection.weight_change.add_(3.0)
    assert site.validate()["val_psnr_db"] < good
    assert site.best_psnr == good
    assert tiny.same(site.best, best)


def test_a_model_that_no_validation_can_score_is_not_chosen():
    site = trainer()
    with torch.no_grad():
        site.model.private.last.bias.fill_(math.nan)
    assert math.isnan(site.validate()["val_psnr_db"])
    with pytest.raises(FedM2CTError, match=r"site A: the training has diverged.*lower the"):
        site.chosen()


def test_validation_weighs_private_against_shared():
    site = trainer(spec=ModelSpec(width=2, coupling="side-by-side"))
    with torch.no_grad():  # private too high by 0.1, shared too low by 0.3 in all pixels, nearly
        site.model.private.last.bias.fill_(0.1)
        site.model.shared.body.network.last.bias.fill_(-0.3)
    scores = site.validate()
    sinogram, truth, analytical = site.validation_data.batch(torch.arange(2))
    with torch.no_grad():
        result = site.model(sinogram, analytical)
    weight = best_weight(result.private, result.shared, truth)
    assert float(site.model.private_weight) == pytest.approx(weight, abs=1e-6)
    assert scores["val_psnr_db"] == validation_psnr(result.final, truth)
    assert scores["val_private_psnr_db"] == validation_psnr(result.private, truth)
    assert scores["val_shared_psnr_db"] == validation_psnr(result.shared, truth)
    assert scores["val_psnr_db"] > max(scores["val_private_psnr_db"], scores["val_shared_psnr_db"])


def test_best_weight_by_hand():
    truth = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert best_weight(truth + 1, truth - 3, truth) == pytest.approx(0.75)
    assert best_weight(truth + 3, truth + 1, truth) == 0.0  # -0.5 without the bounds
    assert best_weight(truth + 1, truth + 3, truth) == 1.0
    assert best_weight(truth + 1, truth + 1, truth) == 0.5


def test_best_weight_is_the_least_squares_solution():
    source = torch.Generator().manual_seed(2)
    private, shared, truth = (torch.randn(2, 1, 5, 5, generator=source) for _ in range(3))
    grid = torch.linspace(0, 1, 1001)
    errors = [float((w * private + (1 - w) * shared - truth).square().sum()) for w in grid]
    best = float(grid[int(torch.tensor(errors).argmin())])
    assert math.isclose(best_weight(private, shared, truth), best, abs_tol=1e-3)
