"""FedM2CT: the fusion by hand, what travels, what the server can see, each meta-set source."""

import pytest
import torch

from fedm2ct.federation.method import Upload, weighted_average
from fedm2ct.federation.methods import fedm2ct
from fedm2ct.federation.methods.fedm2ct import MetaServer
from fedm2ct.federation.methods.public import acquired
from fedm2ct.federation.methods.setup import with_prefix, without_prefix
from fedm2ct.learning.losses import validation_psnr
from fedm2ct.learning.meta_set import ContributedMetaSet, SimulatedMetaSet, split_public
from fedm2ct.learning.metamodel import interpolate
from fedm2ct.learning.trainer import best_weight
from fedm2ct.model.ts_iradonmap import Reconstruction
from tests import tiny

from .reach import fingerprints, reachable_arrays

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


class HandMade:
    """A metamodel whose training adds 4; alpha, where it is searched, is 0.25."""

    def train(self, start, round_index):
        return {name: tensor + 4 for name, tensor in start.items()}

    def fuse(self, averaged, meta, alpha):
        alpha = 0.25 if alpha is None else alpha
        return interpolate(averaged, meta, alpha), alpha


@pytest.mark.parametrize(("given", "alpha", "expected"), [(None, 0.25, 5.0), (0.5, 0.5, 6.0)])
def test_fusion_by_hand(given, alpha, expected):
    initial = {"shared.w": torch.zeros(1)}
    server = MetaServer(initial, HandMade(), given)
    uploads = [
        Upload("A", {"shared.w": torch.tensor([1.0])}, 1),
        Upload("B", {"shared.w": torch.tensor([5.0])}, 3),
    ]
    fused = server.aggregate(1, initial, uploads)
    assert fused.shared["shared.w"].tolist() == [expected]  # 4 on average, 8 the metamodel's
    assert fused.metrics == {"alpha": alpha}


def test_prefix_makes_a_round_trip():
    state = {"body.w": torch.tensor([1.0])}
    assert with_prefix(state).keys() == {"shared.body.w"}
    assert tiny.same(without_prefix(with_prefix(state)), state)


def round_of(halves):
    """Run one round without the engine; return the uploads and the aggregate."""
    shared = halves.server.initial_shared()
    uploads = [halves.clients[name].fit(1, shared) for name in sorted(halves.clients)]
    return uploads, halves.server.aggregate(1, shared, uploads)


def test_only_the_shared_network_travels():
    halves = fedm2ct.build(tiny.setup())
    uploads, aggregate = round_of(halves)
    for upload in uploads:
        model = halves.trainers[upload.site].model
        declared = model.declare()
        assert set(upload.shared) == {n for n, owner in declared.items() if owner == "shared"}
        assert {n.split(".")[0] for n in upload.shared} == {"shared"}
        assert any("prompt" in n for n in upload.shared)
        kept = halves.clients[upload.site].private_state()
        private = {n for n, owner in declared.items() if owner == "private"}
        assert {"private_weight", "sinogram.filter_change"} <= private
        assert {n.removeprefix("model.") for n in kept if n.startswith("model.")} == private
    assert aggregate.shared.keys() == uploads[0].shared.keys()


def test_a_site_s_trained_networks_move_and_are_validated_twice():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"public_validation": False}))
    trainer = halves.trainers["A"]
    scores = []
    validate = trainer.validate
    trainer.validate = lambda: scores.append(validate()) or scores[-1]
    upload = halves.clients["A"].fit(1, halves.server.initial_shared())
    assert len(scores) == 2  # with the downloaded network, and after training
    assert upload.metrics["val_psnr_db"] == scores[1]["val_psnr_db"]
    assert trainer.best_psnr == max(score["val_psnr_db"] for score in scores)


def test_a_site_validates_on_held_out_public_slices_too_but_reports_its_own():
    setup = tiny.setup()
    trainer = fedm2ct.build(setup).trainers["A"]
    _, held = split_public(setup.public, setup.config.meta.held_out)
    own, public = len(setup.tasks[0].validation), sum(len(slices) for _, slices in held)
    assert public > 0
    assert len(trainer.validation_data) == own + public
    torch.nn.init.normal_(trainer.model.private.last.weight, std=0.1)
    torch.nn.init.normal_(trainer.model.shared.body.network.last.weight, std=0.1)
    scores = trainer.validate()
    sinogram, truth, analytical = trainer.validation_data.batch(torch.arange(own + public))
    with torch.no_grad():
        result = trainer.model(sinogram, analytical)
    weight = best_weight(result.private, result.shared, truth)
    assert scores["private_weight"] == pytest.approx(weight)
    assert scores["val_psnr_db"] == validation_psnr(result.final[:own], truth[:own])
    assert trainer.best_psnr == validation_psnr(result.final, truth)


def test_a_site_also_trains_on_the_servers_public_slices_when_told_to():
    setup = tiny.setup(fedm2ct={"public_training": True})
    halves = fedm2ct.build(setup)
    train, held = split_public(setup.public, setup.config.meta.held_out)
    for task in setup.tasks:
        data = halves.trainers[task.name].train_data
        public = acquired(setup, task, train, "public noise")
        assert len(public) == sum(len(slices) for _, slices in train) > 0
        assert torch.equal(data.sinogram[: len(task.train)], task.train.projections)
        assert torch.equal(data.sinogram[len(task.train) :], public.projections)
        assert torch.equal(data.truth[len(task.train) :], public.truth)
    validated = sum(len(slices) for _, slices in held) + len(setup.tasks[0].validation)
    assert len(halves.trainers["A"].validation_data) == validated


def test_without_a_meta_set_the_server_averages():
    halves = fedm2ct.build(tiny.setup(meta={"source": "none"}))
    uploads, aggregate = round_of(halves)
    assert tiny.same(aggregate.shared, weighted_average(uploads))
    assert aggregate.metrics == {} and halves.server.state() == {}


def test_without_meta_steps_the_server_averages():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"meta_steps": 0}))
    assert halves.server.metamodel is None


def test_an_alpha_of_zero_is_the_plain_average_without_training():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"alpha": 0.0}))
    uploads, aggregate = round_of(halves)
    assert halves.server.metamodel is None
    assert tiny.same(aggregate.shared, weighted_average(uploads))
    assert all(t.task.public_validation for t in halves.trainers.values())


@pytest.mark.parametrize("source", ["simulated", "contributed"])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_with_a_meta_set_the_server_fuses(source, alpha):
    halves = fedm2ct.build(tiny.setup(meta={"source": source}, fedm2ct={"alpha": alpha}))
    kind = SimulatedMetaSet if source == "simulated" else ContributedMetaSet
    assert isinstance(halves.server.metamodel.source, kind)
    uploads, aggregate = round_of(halves)
    averaged, used = weighted_average(uploads), aggregate.metrics["alpha"]
    assert 0 <= used <= 1 and (alpha is None or used == alpha)
    if alpha is None:
        error = halves.server.metamodel.held_out_error
        assert error(without_prefix(aggregate.shared)) <= error(without_prefix(averaged))
    else:
        assert not tiny.same(aggregate.shared, averaged)
    assert halves.server.state()


def seen_by_server(halves, setup):
    """Return which sites' images or sinograms the server's half can reach."""
    arrays = [a for a in reachable_arrays(halves.server) if a.ndim >= 2]
    reached = set().union(*map(fingerprints, arrays))
    found = set()
    for task in setup.tasks:
        for data in (task.train, task.validation):
            for tensor in (data.projections, data.truth, data.clean):
                if fingerprints(tensor.numpy()) & reached:
                    found.add(task.name)
    return found


@pytest.mark.parametrize("source", ["simulated", "none"])
def test_no_site_image_can_reach_the_server(source):
    setup = tiny.setup(meta={"source": source})
    halves = fedm2ct.build(setup)
    assert seen_by_server(halves, setup) == set()
    round_of(halves)
    assert seen_by_server(halves, setup) == set()


def test_contributed_images_do_reach_the_server():
    """The price of that source, and the proof that the search above would find images."""
    setup = tiny.setup(meta={"source": "contributed"})
    halves = fedm2ct.build(setup)
    assert seen_by_server(halves, setup) == {"A", "B"}


def test_a_simulated_meta_set_does_not_depend_on_what_the_sites_hold():
    setup = tiny.setup()
    others = [tiny.task("A", seed=11), tiny.task("B", seed=12)]
    pairs = [
        fedm2ct.build(s).server.metamodel.source.training(1)
        for s in (setup, type(setup)(setup.config, others, setup.seed, setup.public))
    ]
    for name in ("A", "B"):
        assert torch.equal(pairs[0][name].projections, pairs[1][name].projections)


def test_contributed_pairs_are_as_many_as_were_asked_for():
    halves = fedm2ct.build(tiny.setup(meta={"source": "contributed", "slices": 3}))
    source = halves.server.metamodel.source
    assert len(source.training(1)["B"].truth) + len(source.held_out()["B"].truth) == 3


def test_without_exchange_nothing_travels_and_each_site_keeps_its_own():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"exchange": False}))
    assert halves.server.initial_shared() == {} and halves.server.state() == {}
    uploads, aggregate = round_of(halves)
    assert all(upload.shared == {} for upload in uploads) and aggregate.shared == {}
    a, b = (halves.trainers[name].model.shared_state() for name in ("A", "B"))
    assert not tiny.same(a, b)
    kept = halves.clients["A"].private_state()
    assert tiny.same({n: kept[f"model.{n}"] for n in a}, a)


def test_exchange_is_all_that_the_ablation_of_it_changes():
    """Same start, same batches, same losses: in the first round, a site does the same."""
    connected = fedm2ct.build(tiny.setup(meta={"source": "none"}))
    apart = fedm2ct.build(tiny.setup(fedm2ct={"exchange": False}))
    start = connected.server.initial_shared()
    assert tiny.same(apart.trainers["A"].model.shared_state(), start)
    upload = connected.clients["A"].fit(1, start)
    alone = apart.clients["A"].fit(1, {})
    assert alone.metrics == upload.metrics
    assert tiny.same(apart.trainers["A"].model.shared_state(), upload.shared)
    assert alone.samples == upload.samples


def test_ramp_delays_the_mutual_terms():
    """In the first round of a ramp the networks learn as if alone."""
    alone = {"lambda_private": 0.0, "lambda_shared": 0.0}
    taught = {"lambda_private": 0.5, "lambda_shared": 0.5}
    states = [
        halves.clients["A"].fit(1, halves.server.initial_shared()).shared
        for halves in (
            fedm2ct.build(tiny.setup(meta={"source": "none"}, fedm2ct=own))
            for own in (alone, taught, {**taught, "ramp_rounds": 0})
        )
    ]
    assert tiny.same(states[0], states[1])
    assert not tiny.same(states[0], states[2])


@pytest.mark.parametrize(("round_index", "expected"), [(1, 1000), (2, 1100), (3, 1200)])
def test_a_site_s_loss_heeds_the_options_of_mutual_learning(round_index, expected):
    """100 (1 + 9) is the supervised part, 100 x 0.5 x 4 the peer's once the ramp has ended."""
    options = {"lambda_private": 0.0, "lambda_shared": 0.5, "ramp_rounds": 2}
    setup = tiny.setup(fedm2ct=options, training={"loss": "l2"})
    ones = torch.ones(1, 1, 2, 2)
    result = Reconstruction(ones, 3 * ones, ones, torch.tensor(0.0))
    loss = fedm2ct.build(setup).clients["A"].loss_of_round(round_index)
    assert float(loss(result, torch.zeros(1, 1, 2, 2))) == pytest.approx(expected)
