"""FedAvg and FedPer: the average by hand, what travels, when is validated."""

import pytest
import torch

from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import METHODS, fedavg, fedper
from fedm2ct.federation.methods.fedavg import AveragingServer
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
BUILDS = pytest.mark.parametrize("build", [fedavg.build, fedper.build])


def test_average_by_hand():
    server = AveragingServer({"w": torch.zeros(2)})
    uploads = [
        Upload("A", {"w": torch.tensor([1.0, -2.0])}, 1),
        Upload("B", {"w": torch.tensor([5.0, 2.0])}, 3),
    ]
    assert server.aggregate(1, server.initial_shared(), uploads).shared["w"].tolist() == [4.0, 1.0]
    assert server.state() == {}


@BUILDS
def test_the_image_network_travels_and_nothing_else(build):
    halves = build(tiny.setup())
    shared = halves.server.initial_shared()
    for name, client in halves.clients.items():
        model = halves.trainers[name].model
        upload = client.fit(1, shared)
        assert upload.shared.keys() == shared.keys()
        assert upload.shared.keys() == {f"shared.{n}" for n, _ in model.shared.named_parameters()}
        assert not any("prompt" in n for n in upload.shared)
        assert upload.samples == len(halves.trainers[name].task.train.truth)
        assert model.private is None


def trained_parts(build):
    """Return what the optimiser of site A changes in a round."""
    halves = build(tiny.setup())
    model = halves.trainers["A"].model
    model.load_shared(halves.server.initial_shared())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    halves.clients["A"].fit(1, halves.server.initial_shared())
    return {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_fedavg_trains_what_it_averages_and_fedper_the_private_part_too():
    assert trained_parts(fedavg.build) == {"shared"}
    assert trained_parts(fedper.build) == {"shared", "sinogram", "backprojection"}


def test_fedper_without_learned_projections_is_fedavg():
    fixed = {"model": {"learn_projection": False}}
    halves = [build(tiny.setup(**fixed)) for build in (fedavg.build, fedper.build)]
    shared = halves[0].server.initial_shared()
    uploads = [h.clients["A"].fit(1, shared).shared for h in halves]
    assert tiny.same(*uploads)


@BUILDS
def test_what_is_validated_is_the_global_model(build):
    """The site's own model after local training is not the method's product."""
    halves = build(tiny.setup())
    client, trainer = halves.clients["A"], halves.trainers["A"]
    shared = halves.server.initial_shared()
    client.fit(1, shared)
    assert tiny.same({n: trainer.best[n] for n in shared}, shared)
    assert not tiny.same(trainer.model.shared_state(), shared)
    moved = {name: tensor + 0.01 for name, tensor in shared.items()}
    finished = client.finish(moved)
    assert tiny.same(trainer.model.shared_state(), moved)
    assert finished["best_val_psnr_db"] == trainer.best_psnr >= finished["val_psnr_db"]


def test_every_method_is_registered_under_its_file_name():
    assert {name: build.__module__.rpartition(".")[2] for name, build in METHODS.items()} == {
        name: name for name in METHODS
    }
