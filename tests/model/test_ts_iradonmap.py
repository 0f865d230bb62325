"""TS-iRadonMAP: untrained it is FBP; what is shared is declared; gradients stay apart."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedm2ct.errors import FedM2CTError
from fedm2ct.model.frequency import PRIVATE_NETWORKS
from fedm2ct.model.image import IMAGE_NETWORKS, build_image_network
from fedm2ct.model.start import analytical_input, iterative, starts_kept_in, tv_strength
from fedm2ct.model.ts_iradonmap import ModelSpec, TSiRadonMAP
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.geometry import (
    FanGeometry,
    Geometry,
    ImageGrid,
    ParallelGeometry,
    equispaced_angles,
)
from fedm2ct.physics.image_noise import fbp_noise
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.phantoms import abdomen_like, ellipse_sinogram
from fedm2ct.physics.protocols import PROTOCOLS, Protocol
from fedm2ct.physics.total_variation import statistical_total_variation

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
GRID = ImageGrid(32, 32, 12.0)
FULL, SHORT, LIMITED = (
    equispaced_angles(40),
    equispaced_angles(30, math.radians(225)),
    equispaced_angles(16, math.radians(100)),
)


def fan(angles: tuple[float, ...], detector: str, offset: float = 0.0) -> FanGeometry:
    return FanGeometry(angles, 48, 18.0, 595.0, 1085.6, detector, offset)


GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelGeometry(equispaced_angles(36, math.pi), 48, 9.0),
    "parallel full": ParallelGeometry(FULL, 48, 9.0),
    "flat": fan(FULL, "flat"),
    "curved": fan(FULL, "curved"),
    "flat short": fan(SHORT, "flat"),
    "curved short": fan(SHORT, "curved"),
    "curved limited": fan(LIMITED, "curved"),
    "shifted": fan(FULL, "flat", offset=120.0),
}


def protocol(geometry: Geometry) -> Protocol:
    return Protocol("test", geometry, GRID, 1e5, 10.0)


def sinogram(geometry: Geometry) -> torch.Tensor:
    body = abdomen_like(torch.Generator().manual_seed(1))
    return ellipse_sinogram(body, geometry).float()


@pytest.mark.parametrize("coupling", ["cascaded", "side-by-side"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_untrained_is_fbp_in_every_output(name: str, coupling: str) -> None:
    geometry = GEOMETRIES[name]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(width=4, coupling=coupling))
    data = sinogram(geometry)
    expected = fbp(data, geometry, GRID)
    result = model(data)
    for image in (result.initial, result.shared, result.private, result.final):
        assert image is not None
        assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_iterative_images_are_kept_and_read_again_for_the_same_measurement_only(tmp_path) -> None:
    geometry = GEOMETRIES["flat short"]
    data, other = sinogram(geometry), sinogram(geometry) * 1.01
    site = protocol(geometry)
    with starts_kept_in(tmp_path):
        first = analytical_input("sirt", data, site)
        (kept,) = tmp_path.iterdir()
        np.save(kept, np.load(kept) + 5)  # what is read can be told from what is computed
        assert torch.equal(analytical_input("sirt", data, site)[:, 0], first[:, 0] + 5)
        for changed in (
            analytical_input("sirt", other, site),
            analytical_input("sirt", data, replace(site, photons=site.photons / 2)),
            analytical_input("tv", data, site),
            analytical_input("scaled-tv", data, site),
        ):
            assert (changed[:, 0] - first[:, 0]).abs().max() < 2
    assert len(list(tmp_path.iterdir())) == 5
    assert torch.equal(analytical_input("sirt", data, site), first)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_a_model_starts_from_is_kept_but_for_inputs_made_up_in_training(tmp_path) -> None:
    geometry = GEOMETRIES["flat short"]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(width=4, start="sirt"))
    with starts_kept_in(tmp_path):
        model.train()(sinogram(geometry))
        assert not list(tmp_path.iterdir())
        model.analytical(sinogram(geometry))
        assert len(list(tmp_path.iterdir())) == 1
        model.eval()(sinogram(geometry) * 1.01)
        assert len(list(tmp_path.iterdir())) == 2


def test_scaled_total_variation_is_stronger_where_a_protocol_is_noisier() -> None:
    site = protocol(GEOMETRIES["flat"])
    dark = replace(site, photons=site.photons / 4, electronic_noise=site.electronic_noise / 2)
    strength = tv_strength("scaled-tv", site)
    assert strength == pytest.approx(7.5e-5 * 12.0 * fbp_noise(site))
    assert tv_strength("scaled-tv", dark) == pytest.approx(2 * strength)
    assert tv_strength("tv", dark) == tv_strength("tv", site)
    data = sinogram(site.geometry)
    plain, projector = fbp(data, site.geometry, GRID), Projector(site.geometry, GRID)
    expected = statistical_total_variation(data, plain, projector, site, strength, 200)
    torch.testing.assert_close(iterative("scaled-tv", data, plain, site), expected)


def test_lower_precision_is_for_training_only() -> None:
    torch.manual_seed(0)
    network = build_image_network("unet", 1, 4)
    torch.nn.init.normal_(network.last.weight)
    image = torch.rand(2, 1, 16, 16)
    exact = network(image)
    network.training_dtype = torch.bfloat16
    rough = network(image)
    assert 0 < (rough - exact).abs().max() < 0.1 * (exact - image).abs().max()
    assert rough.dtype == torch.float32
    rough.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    assert torch.equal(network.eval()(image), exact)


def test_sinogram_network_corrects_in_lower_precision_while_training_only() -> None:
    torch.manual_seed(0)
    geometry = GEOMETRIES["flat"]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(width=4)).sinogram
    torch.nn.init.normal_(model.correct[-1].weight, std=0.1)
    data = sinogram(geometry)
    exact = model(data)
    model.training_dtype = torch.bfloat16
    rough = model(data)
    assert 0 < (rough - exact).abs().max() < 0.02 * exact.abs().max()
    assert rough.dtype == torch.float32
    assert torch.equal(model.eval()(data), exact)


@pytest.mark.parametrize("coupling", ["cascaded", "side-by-side"])
@pytest.mark.parametrize("cascade_from", ["initial", "shared"])
@pytest.mark.parametrize("start", ["sirt", "tv", "scaled-tv"])
def test_untrained_is_the_iterative_image_it_starts_from(start, cascade_from, coupling) -> None:
    geometry = GEOMETRIES["flat short"]
    spec = ModelSpec(width=4, coupling=coupling, start=start, cascade_from=cascade_from)
    model, data = TSiRadonMAP(protocol(geometry), spec), sinogram(geometry)
    plain = fbp(data, geometry, GRID)
    expected = iterative(start, data, plain, protocol(geometry))
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(model.analytical(data), torch.cat([expected, plain], 1))
    for result in (model(data), model(data, model.analytical(data))):
        for image in (result.initial, result.shared, result.private, result.final):
            torch.testing.assert_close(image, expected)


@pytest.mark.parametrize("shared_input", ["fbp", "learned"])
def test_what_is_learned_of_the_projections_is_seen_beside_the_start(shared_input: str) -> None:
    geometry = GEOMETRIES["flat"]
    torch.manual_seed(0)
    spec = ModelSpec(width=4, start="tv", shared_input=shared_input)
    model = TSiRadonMAP(protocol(geometry), spec)
    data = sinogram(geometry)
    known = model.analytical(data)
    for parameter in model.parameters():  # nothing at zero, so that every path is open
        torch.nn.init.normal_(parameter, std=0.05)
    result = model(data, known)
    result.private.sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("sinogram.") for n in reached)
    assert any(n.startswith("backprojection.") for n in reached)
    moved = known.clone()
    moved[:, 1] += 0.1  # FBP alone: the shared network sees it where it is its input
    change = (model(data, moved).shared - result.shared).abs().max()
    assert bool(change > 1e-6) == (shared_input == "fbp")


@pytest.mark.parametrize("coupling", ["cascaded", "side-by-side"])
def test_a_private_network_that_does_not_see_fbp_leaves_the_projections_unlearned(coupling) -> None:
    geometry = GEOMETRIES["flat"]
    torch.manual_seed(0)
    spec = ModelSpec(
        width=4, start="tv", shared_input="fbp", private_sees_fbp=False, coupling=coupling
    )
    model = TSiRadonMAP(protocol(geometry), spec)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    data = sinogram(geometry)
    known = model.analytical(data)
    model(data, known).final.sum().backward()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"shared", "private"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    moved = known.clone()
    moved[:, 1] += 0.1  # FBP alone
    change = model(data, moved).private - model(data, known).private
    assert bool(change.abs().max() > 0) == (coupling == "cascaded")  # by the shared one's image
    moved[:, 0] += 0.1
    change = model(data, moved).private - model(data, known).private
    assert change.abs().max() > 1e-3


def test_without_an_iterative_start_the_private_network_sees_what_it_corrects() -> None:
    spec = ModelSpec(shared=None, width=4, private_sees_fbp=False)
    model = TSiRadonMAP(protocol(GEOMETRIES["flat"]), spec)
    assert all(p.requires_grad for p in model.sinogram.parameters())


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    for spec in (ModelSpec(private="twoband"), ModelSpec(shared="two-band")):
        with pytest.raises(FedM2CTError, match=r"choose one of .*unet"):
            TSiRadonMAP(protocol(GEOMETRIES["flat"]), spec)
    with pytest.raises(FedM2CTError, match="two-band"):
        TSiRadonMAP(protocol(GEOMETRIES["flat"]), ModelSpec(private="twoband"))


@pytest.mark.parametrize("name", PRIVATE_NETWORKS)
def test_every_network_trains_as_private_and_as_shared(name: str) -> None:
    geometry = GEOMETRIES["flat"]
    torch.manual_seed(0)
    spec = ModelSpec(private=name, shared=name if name in IMAGE_NETWORKS else "unet", width=4)
    model = TSiRadonMAP(protocol(geometry), spec)
    data, truth = sinogram(geometry), torch.zeros(1, 1, 32, 32)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        result = model(data)
        loss = (result.private - truth).square().mean() + (result.shared - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_every_name_is_declared_and_only_the_shared_network_is_shared() -> None:
    model = TSiRadonMAP(PROTOCOLS["demo-sparse"], ModelSpec(width=4))
    declared = model.declare()
    assert set(declared) == set(model.state_dict())
    assert {n for n, owner in declared.items() if owner == "shared"} == {
        n for n in model.state_dict() if n.split(".")[0] == "shared"
    }
    assert not (set(model.shared_state()) & set(model.private_state()))
    assert not list(model.shared.buffers())


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("prompted", [True, False])
def test_a_part_of_the_shared_network_may_stay_at_the_site(name: str, prompted: bool) -> None:
    def shared(kept: str) -> set[str]:
        spec = ModelSpec(shared=name, width=2, prompted=prompted, kept=kept)
        model = TSiRadonMAP(protocol(GEOMETRIES["flat"]), spec)
        assert set(model.shared_parameters()) == set(model.shared_state())
        return set(model.shared_state())

    network = "shared.body.network." if prompted else "shared.body."
    whole = shared("nothing")
    assert whole - shared("head") == {f"{network}last.weight", f"{network}last.bias"}
    decoder = whole - shared("decoder")
    assert {f"{network}last.weight", f"{network}last.bias"} < decoder
    assert f"{network}{'encode' if name == 'redcnn' else 'first'}" in "".join(shared("decoder"))
    assert whole - shared("prompt") == {n for n in whole if ".prompt." in n}
    assert bool(whole - shared("prompt")) == prompted


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_decoder_is_what_the_bottleneck_does_not_need(name: str) -> None:
    network = build_image_network(name, 1, 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen: list[torch.Tensor] = []
    network.bottleneck.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.rand(1, 1, 16, 16))
    seen[0].square().sum().backward()
    later = {n for n, p in network.named_parameters() if p.grad is None}
    named = {n for n, _ in network.named_parameters() if n.startswith(tuple(network.decoder))}
    assert later == named


def test_shared_states_of_sites_with_other_geometries_fit_one_another() -> None:
    one, two = (
        TSiRadonMAP(protocol(GEOMETRIES[n]), ModelSpec(width=4)) for n in ("flat", "parallel")
    )
    two.load_shared(one.shared_state())
    for name, tensor in one.shared_state().items():
        assert torch.equal(tensor, two.shared_state()[name])


def test_load_shared_refuses_other_names() -> None:
    model = TSiRadonMAP(protocol(GEOMETRIES["flat"]), ModelSpec(width=4))
    state = model.shared_state()
    with pytest.raises(ValueError, match="private_weight"):
        model.load_shared({**state, "private_weight": torch.tensor(1.0)})


def test_the_private_loss_sends_no_gradient_into_the_shared_network() -> None:
    geometry = GEOMETRIES["flat"]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(width=4, coupling="cascaded"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model(sinogram(geometry)).private.square().mean().backward()
    assert all(p.grad is None for p in model.shared.parameters())
    assert all(p.grad is not None for p in model.private.parameters())


def test_the_prompt_changes_nothing_at_the_start_and_something_later() -> None:
    geometry = GEOMETRIES["flat"]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(private=None, width=4))
    for name, parameter in model.shared.named_parameters():
        if ".prompt." not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    image = torch.rand(2, 1, 32, 32)
    one, two = model.condition, TSiRadonMAP(protocol(GEOMETRIES["parallel"]), model.spec).condition
    with torch.no_grad():
        before = model.shared(image, one)
        assert torch.equal(before, model.shared(image, two))
        torch.nn.init.normal_(model.shared.body.prompt.layers[-1].weight)
        assert not torch.allclose(model.shared(image, one), model.shared(image, two))


def test_consistency_channel_is_zero_for_an_image_that_explains_the_data() -> None:
    geometry = GEOMETRIES["parallel full"]
    model = TSiRadonMAP(protocol(geometry), ModelSpec(width=4, consistency=True))
    image = torch.rand(1, 1, 32, 32)
    from fedm2ct.units import MU_WATER_PER_MM

    data = model.projector(image) * MU_WATER_PER_MM
    assert model.unexplained(data, image).abs().max() < 1e-4
    assert model.unexplained(data, image * 0.5).abs().max() > 0.1


def test_final_weighs_private_against_shared() -> None:
    model = TSiRadonMAP(protocol(GEOMETRIES["flat"]), ModelSpec(width=4))
    result = dataclasses.replace(
        model(sinogram(GEOMETRIES["flat"])),
        private=torch.ones(1),
        shared=torch.zeros(1),
        weight=torch.tensor(0.25),
    )
    assert result.final.item() == 0.25
