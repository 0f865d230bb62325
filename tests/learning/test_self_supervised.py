"""The terms of a loss without truth: a value by hand each, what they may see, what they pull to."""

import math

import pytest
import torch
from torch import nn

from fedm2ct.config import HybridConfig
from fedm2ct.data.simulate import simulate
from fedm2ct.learning import self_supervised
from fedm2ct.learning.losses import charbonnier, l2
from fedm2ct.learning.misfit import Misfit, counts_of, hold_out_views, subset_of_views
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.self_supervised import (
    FOLD_OF_IMAGES,
    FOLD_OF_VIEWS,
    Measured,
    make_terms,
    rotate,
    trust_in,
    weighted,
)
from fedm2ct.learning.slices import Slices
from fedm2ct.model.ts_iradonmap import ModelSpec, Reconstruction, TSiRadonMAP
from fedm2ct.physics.analytic import fbp
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
PROTOCOL = tiny.PROTOCOLS["B"]
NAMES = ["noise2inverse", "split-views", "thinning", "consistency", "equivariance", "teacher"]


class Fixed(nn.Module):
    """A 'model' whose images do not depend on what is measured; it remembers what it was shown."""

    def __init__(self, private, shared=None):
        super().__init__()
        self.private, self.shared, self.seen = nn.Parameter(private), shared, []

    def forward(self, sinogram, analytical=None):
        self.seen.append(sinogram)
        return Reconstruction(self.private, self.shared, self.private, torch.tensor(1.0))


def term(name, distance=l2, **options):
    return make_terms(HybridConfig(loss=[name], **options), PROTOCOL, distance)[name]


@pytest.fixture(scope="module")
def data():
    return tiny.measured_pixels(PROTOCOL, 8, 3)


def draw():
    return generator(9, "draw")


def test_noise2inverse_by_hand(data):
    model = Fixed(torch.zeros_like(data.truth))
    value = term("noise2inverse")(model, Measured(data.projections, None), draw())
    first = int(torch.randint(FOLD_OF_IMAGES, (), generator=draw()))
    part = subset_of_views(PROTOCOL.geometry, first, FOLD_OF_IMAGES)
    target = fbp(data.projections[:, :, first::FOLD_OF_IMAGES], part, PROTOCOL.grid)
    assert value.item() == pytest.approx(100 * float(target.square().mean()), rel=1e-5)
    assert torch.equal(model.seen[0], hold_out_views(data.projections, first, FOLD_OF_IMAGES))
    assert float((target - data.truth).square().mean()) < float(data.truth.square().mean())


def test_split_views_by_hand(data):
    model = Fixed(data.truth * 0.9)
    value = term("split-views")(model, Measured(data.projections, None), draw())
    first = int(torch.randint(FOLD_OF_VIEWS, (), generator=draw()))
    counts = counts_of(data.projections, PROTOCOL.photons)
    chosen = slice(first, None, FOLD_OF_VIEWS)
    expected = Misfit(PROTOCOL)(data.truth * 0.9, counts, chosen).mean()
    assert value.item() == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(model.seen[0], hold_out_views(data.projections, first, FOLD_OF_VIEWS))


def test_thinning_compares_with_the_rest_of_the_dose(data):
    """Near 1 for the truth; the network sees less dose than was measured."""
    model = Fixed(data.truth)
    built = self_supervised.thinning(Misfit(PROTOCOL, model_error=0.0))
    value = built(model, Measured(data.projections, None), draw())
    assert value.item() == pytest.approx(1.0, abs=0.1)
    noise, thinner = ((p - data.clean).square().mean() for p in (data.projections, model.seen[0]))
    assert float(thinner) > 1.1 * float(noise)


def test_consistency_is_the_misfit_of_all_that_was_measured(data):
    value = term("consistency")(Fixed(data.truth), Measured(data.projections, None), draw())
    counts = counts_of(data.projections, PROTOCOL.photons)
    assert value.item() == pytest.approx(float(Misfit(PROTOCOL)(data.truth, counts).mean()))


def test_equivariance_by_hand(data, monkeypatch):
    """A 'model' that always returns the same image: the loss is its distance from its rotation."""
    model = Fixed(data.truth)
    value = term("equivariance")(model, Measured(data.projections, None), draw())
    angles = 2 * math.pi * torch.rand(3, generator=draw())
    expected = l2(data.truth, rotate(data.truth, angles))
    assert value.item() == pytest.approx(float(expected), rel=1e-5) and value.item() > 0.1
    again = Misfit(PROTOCOL).project(rotate(data.truth, angles))
    assert 0 < float((model.seen[1].detach() - again).abs().max()) < 1  # the dose's noise


def test_equivariance_lets_gradients_through_measurement_and_rotation(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TSiRadonMAP(PROTOCOL, ModelSpec(shared=None, width=2))
    nn.init.normal_(model.private.last.weight, std=0.1)
    term("equivariance")(model, Measured(data.projections, None), draw()).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in model.private.parameters())


def test_teacher_by_hand(data):
    z = data.truth + 0.1
    model = Fixed(data.truth, shared=z)
    value = term("teacher")(model, Measured(data.projections, None), draw())
    trust = trust_in(z, data.projections, Misfit(PROTOCOL))
    assert float(trust.max()) < 0.5  # 100 HU off everywhere: the rays say so
    assert value.item() == pytest.approx(float(trust.mean()), rel=1e-3)  # l2 is 1 at 100 HU
    value.backward()
    assert bool((model.private.grad < 0).all())  # towards the teacher


def test_a_teacher_that_noise_explains_is_trusted(data):
    counts = counts_of(data.projections, PROTOCOL.photons)
    misfit = Misfit(PROTOCOL)
    trust = trust_in(data.truth, data.projections, misfit)
    expected = 1 / misfit(data.truth, counts).clamp(min=1)
    assert torch.equal(trust, expected) and float(trust.min()) > 0.6
    assert float(trust.max()) <= 1.0


def test_a_teacher_takes_no_gradient(data):
    z = (data.truth + 0.1).requires_grad_()
    term("teacher")(Fixed(data.truth, z), Measured(data.projections, None), draw()).backward()
    assert z.grad is None


def test_public_pairs_by_hand(data):
    model = TSiRadonMAP(PROTOCOL, ModelSpec(shared=None, width=2))
    pairs = Slices(data, model, torch.device("cpu"))
    chosen = torch.randint(3, (2,), generator=draw())
    terms = make_terms(HybridConfig(loss=["public"]), PROTOCOL, charbonnier, pairs, 2)
    value = terms["public"](model, Measured(data.projections, None), draw())
    image = model(data.projections[chosen]).private
    assert value.item() == pytest.approx(charbonnier(image, data.truth[chosen]).item())
    assert make_terms(HybridConfig(loss=["public"]), PROTOCOL, charbonnier) == {}


@pytest.mark.parametrize("name", NAMES[:3])
def test_what_is_compared_with_cannot_be_learned_by_heart(name, data):
    """The unbiased terms: the network's input has none of the noise that it must predict."""
    protocol = PROTOCOL.__class__("dim", PROTOCOL.geometry, PROTOCOL.grid, 2000.0, 0.0)
    scan, n = tiny.scan("one", 11, 1), 400
    many = simulate(scan, [0] * n, protocol, generator(12, "noise"))
    seen = {}

    class Spy(Fixed):
        def forward(self, sinogram, analytical=None):
            seen["input"] = sinogram
            return super().forward(sinogram)

    targets = []
    if name == "noise2inverse":
        monkey = self_supervised.l2
        self_supervised.l2 = lambda image, target: targets.append(target) or monkey(image, target)
    try:
        built = make_terms(HybridConfig(loss=[name]), protocol, l2)[name]
        spy = Spy(many.truth)
        built(spy, Measured(many.projections, None), draw()).backward()
    finally:
        if name == "noise2inverse":
            self_supervised.l2 = monkey
    given = fbp(seen["input"] - many.clean, protocol.geometry, protocol.grid)
    noise = targets[0] - targets[0].mean(0) if targets else spy.private.grad
    noise = noise - noise.mean(0)
    given = given - given.mean(0)
    middle = (slice(None), 0, 8, 8)
    correlation = float(torch.corrcoef(torch.stack([given[middle], noise[middle]]))[0, 1])
    assert abs(correlation) < 4.5 / math.sqrt(n)


def test_consistency_can_be_learned_by_heart(data):
    """The contrast to the test above, which so can see a dependence."""
    protocol = PROTOCOL.__class__("dim", PROTOCOL.geometry, PROTOCOL.grid, 2000.0, 0.0)
    many = simulate(tiny.scan("one", 11, 1), [0] * 400, protocol, generator(12, "noise"))
    spy = Fixed(many.truth)
    built = make_terms(HybridConfig(loss=["consistency"]), protocol, l2)["consistency"]
    built(spy, Measured(many.projections, None), draw()).backward()
    given = fbp(many.projections - many.clean, protocol.geometry, protocol.grid)
    middle = (slice(None), 0, 8, 8)
    correlation = float(
        torch.corrcoef(torch.stack([given[middle], spy.private.grad[middle]]))[0, 1]
    )
    assert abs(correlation) > 6 / math.sqrt(400)


@pytest.mark.parametrize("name", NAMES)
def test_every_term_trains_the_private_part_and_nothing_shared(name, data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TSiRadonMAP(PROTOCOL, ModelSpec(width=2, shared_input="fbp"))
    nn.init.normal_(model.private.last.weight, std=0.1)
    analytical = model.analytical(data.projections)
    value = term(name)(model, Measured(data.projections, analytical), draw())
    assert value.shape == () and bool(torch.isfinite(value))
    value.backward()
    assert all(p.grad is not None for p in model.private.parameters())
    assert float(model.sinogram.filter_change.grad.abs().max()) > 0
    assert all(p.grad is None for p in model.shared.parameters())


def test_rotation_is_counter_clockwise_and_exact_at_right_angles():
    image = torch.rand(2, 1, 6, 6, generator=draw())
    turned = rotate(image, torch.tensor([math.pi / 2, math.pi]))
    torch.testing.assert_close(turned[0], torch.rot90(image[0], 1, (1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[1], torch.rot90(image[1], 2, (1, 2)), rtol=0, atol=1e-5)


def test_a_rotated_image_is_measured_as_the_object_from_other_angles():
    """By one view's step: the sinogram of a full turn moves on by a view."""
    protocol = tiny.PROTOCOLS["A"]
    misfit = Misfit(protocol)
    smooth = torch.nn.functional.avg_pool2d(tiny.paired(protocol, 2, 1).truth, 5, 1, 2)
    turned = rotate(smooth, torch.tensor([2 * math.pi / protocol.geometry.n_views]))
    moved = torch.roll(misfit.project(smooth), 1, dims=2)
    error = (misfit.project(turned) - moved).abs().mean()
    unturned = (misfit.project(smooth) - moved).abs().mean()
    assert float(error) < 0.5 * float(unturned)


def test_a_sum_of_terms_by_hand():
    def constant(value):
        return lambda model, batch, draw: torch.tensor(value)

    def never(model, batch, draw):
        raise AssertionError("a term of weight zero is not computed")

    total = weighted([(2.0, constant(3.0)), (0.0, never), (0.5, constant(4.0))])
    assert float(total(None, None, None)) == 8.0
    assert weighted([(0.0, never)]) is None
