import pytest
import torch

from fedm2ct.federation.methods import fedper, pooled, pooled_plain
from fedm2ct.federation.methods.pooled import MEMBER
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def build(seed=3):
    halves = pooled.build(tiny.setup(seed))
    return halves, halves.clients[MEMBER]


def test_all_sites_use_one_network_object_and_one_optimiser():
    halves, client = build()
    a, b = halves.trainers["A"], halves.trainers["B"]
    assert a.model.shared is b.model.shared
    assert a.optimiser is b.optimiser is client.optimiser
    assert a.model.sinogram is not b.model.sinogram
    client.fit(1, {})
    assert a.model.shared is b.model.shared
    assert tiny.same(a.model.shared_state(), b.model.shared_state())


def test_every_site_s_slices_are_trained_on():
    halves, client = build()
    before = {n: t.model.sinogram.filter_change.clone() for n, t in halves.trainers.items()}
    upload = client.fit(1, {})
    assert upload.samples == 4 + 6 and upload.shared == {}
    steps = {int(entry["step"]) for entry in client.optimiser.state.values()}
    assert steps == {2, 4}  # a site's own part: its two batches; the network: all four
    for name, trainer in halves.trainers.items():
        assert not torch.equal(trainer.model.sinogram.filter_change, before[name])
    mean = (upload.metrics["val_psnr_db/A"] + upload.metrics["val_psnr_db/B"]) / 2
    assert upload.metrics["val_psnr_db"] == pytest.approx(mean)


def test_the_network_is_prompted_and_its_start_that_of_the_federation():
    halves, _ = build()
    shared = halves.trainers["A"].model.shared_state()
    assert any("prompt" in name for name in shared)
    torch.manual_seed(1)
    assert tiny.same(build()[0].trainers["B"].model.shared_state(), shared)
    assert not tiny.same(build(seed=4)[0].trainers["B"].model.shared_state(), shared)


def test_without_a_prompt_the_model_and_its_start_are_fedper_s():
    halves = pooled_plain.build(tiny.setup())
    plain = fedper.build(tiny.setup())
    assert tiny.same(halves.trainers["A"].model.shared_state(), plain.server.initial_shared())
    for name, trainer in halves.trainers.items():
        assert trainer.model.spec == plain.trainers[name].model.spec
    halves.clients[MEMBER].fit(1, {})
    a, b = (t.model.shared for t in halves.trainers.values())
    assert a is b


def test_restoring_brings_back_one_network_and_the_same_future():
    (whole_halves, whole), (_, first), (halves, second) = build(), build(), build()
    for client, rounds in ((whole, (1, 2)), (first, (1,)), (second, (3,))):
        for round_index in rounds:
            client.fit(round_index, {})
    second.load_private_state({n: t.contiguous() for n, t in first.private_state().items()})
    a, b = halves.trainers["A"], halves.trainers["B"]
    assert a.model.shared is b.model.shared
    second.fit(2, {})
    assert a.model.shared is b.model.shared
    assert tiny.same(second.private_state(), whole.private_state())
    for name, trainer in halves.trainers.items():
        assert tiny.same(trainer.best, whole_halves.trainers[name].best)
    assert second.fingerprint == first.fingerprint
