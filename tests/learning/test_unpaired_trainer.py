"""Training and choosing without truth."""

import math
from dataclasses import replace

import pytest
import torch

from fedm2ct.config import HybridConfig
from fedm2ct.learning.losses import l2, validation_psnr
from fedm2ct.learning.misfit import Misfit, counts_of, hold_out_views
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.seeds import generator, seeded_initialisation
from fedm2ct.learning.self_supervised import make_terms
from fedm2ct.learning.trainer import best_weight
from fedm2ct.learning.unpaired_trainer import FOLD, UnpairedTrainer
from fedm2ct.model.ts_iradonmap import ModelSpec, TSiRadonMAP
from fedm2ct.physics.analytic import fbp
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
CPU = torch.device("cpu")


def trainer(task=None, spec=None, **schedule):
    task = task or tiny.without_truth(tiny.task("A"))
    with seeded_initialisation(3, "test"):
        model = TSiRadonMAP(task.protocol, spec or ModelSpec(shared=None, width=2))
    return UnpairedTrainer(task, model, tiny.training(**schedule), 3, CPU)


def test_a_supervised_step_is_refused():
    with pytest.raises(ValueError, match="no normal-dose image"):
        trainer().train_round(1, supervised_loss(l2))


def test_the_score_is_the_misfit_of_views_that_the_model_has_not_seen():
    site = trainer()
    scores = site.validate()
    protocol, sinogram = site.task.protocol, site.task.validation.projections
    seen = hold_out_views(sinogram, FOLD // 2, FOLD)
    image = fbp(seen, protocol.geometry, protocol.grid)  # what an untrained model makes
    counts = counts_of(sinogram, protocol.photons)
    expected = float(Misfit(protocol)(image, counts, slice(FOLD // 2, None, FOLD)).mean())
    assert scores == {"held_out_misfit": pytest.approx(expected, rel=1e-4)}
    assert site.best_psnr == pytest.approx(-10 * math.log10(expected), abs=1e-3)


def test_validation_slices_get_no_start_that_no_model_sees():
    site = trainer(spec=ModelSpec(shared=None, width=2, start="sirt"))
    assert site.train_data.analytical is not None and site.validation_data.analytical is None
    assert site.validate()["held_out_misfit"] > 0


def test_a_worse_prediction_is_not_kept():
    site = trainer()
    site.validate()
    best = {name: tensor.clone() for name, tensor in site.best.items()}
    with torch.no_grad():
        site.model.backprojection.weight_change.add_(3.0)
    site.validate()
    assert tiny.same(site.best, best)


@pytest.mark.parametrize("with_public", [True, False])
def test_the_weight_between_networks_needs_no_truth_of_the_site(with_public):
    public = tiny.paired(tiny.PROTOCOLS["A"], 77, 2)
    task = tiny.without_truth(tiny.task("A"))
    task = replace(task, public_validation=(public,) if with_public else ())
    site = trainer(task, ModelSpec(width=2, coupling="side-by-side", shared_input="learned"))
    site.weighs = True
    with torch.no_grad():  # private too high by 0.05, shared too low by 0.15, nearly
        site.model.private.last.bias.fill_(0.05)
        site.model.shared.body.network.last.bias.fill_(-0.15)
    scores = site.validate()
    weight = float(site.model.private_weight)
    assert scores["private_weight"] == pytest.approx(weight)
    own = tiny.task("A").validation  # the truth, to judge by
    with torch.no_grad():
        result = site.model(own.projections)
        known = site.model(public.projections)
    expected = best_weight(known.private, known.shared, public.truth)
    if with_public:
        assert weight == pytest.approx(expected, abs=1e-6)
        psnr = validation_psnr(known.shared + weight * (known.private - known.shared), public.truth)
        assert site.best_psnr == pytest.approx(psnr, abs=1e-3)
    else:
        assert 0.5 < weight < 1
        assert weight == pytest.approx(
            best_weight(result.private, result.shared, own.truth), abs=0.25
        )


def test_a_site_that_is_not_trained_keeps_its_weight():
    site = trainer(spec=ModelSpec(width=2, coupling="side-by-side"))
    site.model.private_weight.fill_(0.0)
    assert "private_weight" not in site.validate()
    assert float(site.model.private_weight) == 0.0


@pytest.mark.parametrize("name", ["noise2inverse", "split-views", "thinning"])
def test_training_without_truth_beats_fbp(name):
    """At a quarter of the site's dose, by its truth, which only this test looks at."""
    whole = tiny.task("A", slices=8)
    noisy = replace(whole.protocol, photons=400.0)
    train, validation = (tiny.measured_pixels(noisy, s, n) for s, n in ((1, 8), (101, 4)))
    task = tiny.without_truth(replace(whole, protocol=noisy, train=train, validation=validation))
    site = trainer(
        task, ModelSpec(shared=None, width=4), rounds=3, local_steps=60, learning_rate=3e-3
    )
    loss = make_terms(HybridConfig(loss=[name]), noisy, l2)[name]
    for round_index in (1, 2, 3):
        site.learn(round_index, loss)
        site.validate()
    site.model.load_state_dict(site.best, strict=False)
    with torch.no_grad():
        image = site.model.eval()(validation.projections).final
        untrained = fbp(validation.projections, noisy.geometry, noisy.grid)
    gained = validation_psnr(image, validation.truth) - validation_psnr(untrained, validation.truth)
    assert gained > 0.5


def test_randomness_follows_from_seed_site_and_round():
    states = []
    for _ in range(2):
        site = trainer()
        loss = make_terms(HybridConfig(loss=["thinning"]), site.task.protocol, l2)["thinning"]
        torch.manual_seed(len(states))
        site.learn(1, loss)
        states.append(dict(site.model.state_dict()))
    assert tiny.same(*states)
    site.learn(1, loss)
    assert not tiny.same(dict(site.model.state_dict()), states[0])
    assert generator(3, "A", "self-supervision", 1).initial_seed() != site.batches(1).initial_seed()
