"""A site's own images under other protocols: which slices, which condition, whose gradient."""

from dataclasses import replace

import pytest
import torch

from fedm2ct.data.simulate import simulate
from fedm2ct.federation.methods import fedm2ct
from fedm2ct.federation.methods.setup import without_prefix
from fedm2ct.learning.cross_protocol import CrossProtocol
from fedm2ct.learning.losses import DISTANCES
from fedm2ct.learning.seeds import generator
from fedm2ct.model.prompt import condition_vector
from fedm2ct.model.start import analytical_input
from fedm2ct.model.ts_iradonmap import ModelSpec
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
SPEC = ModelSpec(width=2, shared_input="fbp")
IMAGES = [(tiny.scan("first", 1, 5), (0, 2, 3)), (tiny.scan("second", 2, 4), (1, 3))]


def cross(protocols=(tiny.FAN, tiny.PARALLEL), spec=SPEC, images=IMAGES, batch_size=2):
    distance = DISTANCES["l2"]
    return CrossProtocol("A", images, protocols, spec, distance, batch_size, 7, torch.device("cpu"))


@pytest.mark.parametrize("start", ["fbp", "sirt"])
def test_every_slice_is_acquired_once_under_one_of_the_protocols(start):
    spec = ModelSpec(width=2, shared_input="fbp", start=start)
    acquired = cross(spec=spec).acquire(1)
    expected = [
        simulate(scan, [index], tiny.FAN, generator(0)).truth[0]
        for scan, indices in IMAGES
        for index in indices
    ]
    found = [next(k for k, t in enumerate(expected) if torch.equal(t, a)) for a in acquired.truth]
    assert sorted(found) == list(range(5))
    assert acquired.seen.shape == (5, 1 if start == "fbp" else 2, 16, 16)
    fan, parallel = condition_vector(tiny.FAN), condition_vector(tiny.PARALLEL)
    whose = [bool(torch.equal(c, fan)) for c in acquired.conditions]
    assert sorted(whose) in ([False, False, True, True, True], [False, False, False, True, True])
    assert all(
        torch.equal(c, fan if f else parallel)
        for c, f in zip(acquired.conditions, whose, strict=True)
    )


@pytest.mark.parametrize("shared_input", ["fbp", "learned"])
def test_what_is_seen_is_the_protocol_s_acquisition_of_that_slice(shared_input):
    """Plain FBP of it, also where a site of that protocol would see what it has learned."""
    clean = [replace(p, photons=1e12, electronic_noise=0.0) for p in (tiny.FAN, tiny.PARALLEL)]
    acquired = cross(clean, ModelSpec(width=2, shared_input=shared_input)).acquire(1)
    slices = (acquired.seen, acquired.truth, acquired.conditions)
    for seen, truth, condition in zip(*slices, strict=True):
        protocol = next(p for p in clean if torch.equal(condition_vector(p), condition))
        scan, index = next(
            (scan, index)
            for scan, indices in IMAGES
            for index in indices
            if torch.equal(simulate(scan, [index], protocol, generator(0)).truth[0], truth)
        )
        projections = simulate(scan, [index], protocol, generator(0)).projections
        expected = analytical_input("fbp", projections, protocol)[0]
        assert torch.allclose(seen, expected, atol=1e-3)


def test_a_round_is_repeatable_and_unlike_the_next():
    first, again, second = cross().acquire(1), cross().acquire(1), cross().acquire(2)
    assert torch.equal(first.seen, again.seen)
    assert torch.equal(first.conditions, again.conditions)
    assert not torch.equal(first.seen, second.seen)


def test_the_loss_is_the_distance_of_a_batch_each_under_its_own_condition():
    network = tiny.setup().shared_network(SPEC)
    torch.manual_seed(0)
    with torch.no_grad():  # an untrained network ignores its condition
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    both = cross(batch_size=3)
    slices = both.acquire(1)
    value = both.loss(slices, network, generator(5))
    chosen = torch.randint(5, (3,), generator=generator(5))
    images = [network(slices.seen[i : i + 1], slices.conditions[i]) for i in chosen]
    expected = DISTANCES["l2"](torch.cat(images), slices.truth[chosen])
    assert torch.allclose(value, expected, rtol=1e-5)


def test_fewer_slices_than_protocols_are_enough():
    assert len(cross(images=[(IMAGES[0][0], (1,))]).acquire(1).truth) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"images": []}, "needs images"),
        ({"protocols": ()}, "other sites' protocols"),
    ],
)
def test_what_it_cannot_do_without(changes, why):
    with pytest.raises(ValueError, match=why):
        cross(**changes)


def uploads_of(setup):
    halves = fedm2ct.build(setup)
    shared = halves.server.initial_shared()
    return {name: client.fit(1, shared) for name, client in halves.clients.items()}


def test_it_changes_what_is_sent():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"cross_protocol": 1.0}))
    client = halves.clients["A"]
    upload = client.fit(1, halves.server.initial_shared())
    assert not tiny.same(upload.shared, uploads_of(tiny.setup())["A"].shared)


def test_gradients_of_the_further_loss_stay_in_the_shared_network():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"cross_protocol": 1.0}))
    client = halves.clients["A"]
    slices, model = client.cross.acquire(1), client.trainer.model
    client.cross.loss(slices, model.shared, generator(1)).backward()
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {"shared"}


def test_a_site_knows_the_others_protocols_and_not_its_own():
    halves = fedm2ct.build(tiny.setup(fedm2ct={"cross_protocol": 1.0}))
    known = {name: client.cross.protocols for name, client in halves.clients.items()}
    assert [p.geometry for p in known["A"]] == [tiny.PARALLEL.geometry]
    assert [p.geometry for p in known["B"]] == [tiny.FAN.geometry]
    assert {p.name for protocols in known.values() for p in protocols} == {"unnamed"}


def test_without_normal_dose_images_or_other_protocols_a_site_trains_as_before():
    bare = tiny.setup(fedm2ct={"cross_protocol": 1.0})
    bare = replace(bare, tasks=[replace(task, images=()) for task in bare.tasks])
    assert tiny.same(uploads_of(bare)["A"].shared, uploads_of(tiny.setup())["A"].shared)
    alone = tiny.setup(fedm2ct={"cross_protocol": 1.0})
    alone = replace(alone, tasks=alone.tasks[:1])
    plain = tiny.setup()
    plain = replace(plain, tasks=plain.tasks[:1])
    assert tiny.same(uploads_of(alone)["A"].shared, uploads_of(plain)["A"].shared)


def test_protocols_told_by_a_coordinator_give_the_same_order_as_tasks():
    whole = tiny.setup()
    third = replace(tiny.FAN, photons=3e4, name="third")
    tasks = [*whole.tasks, replace(whole.tasks[0], name="C", protocol=third)]
    everyone = replace(whole, tasks=tasks)
    told = [task.protocol for task in reversed(tasks)]
    alone = replace(whole, tasks=tasks[:1], elsewhere=told)
    assert everyone.other_protocols(tasks[0]) == alone.other_protocols(tasks[0])
    assert len(alone.other_protocols(tasks[0])) == 2


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4]), (3, [1, 4])])
def test_acquisitions_serve_the_rounds_that_the_schedule_says(every, expected):
    changes = {"training": {"simulate_every": every}, "fedm2ct": {"cross_protocol": 1.0}}
    halves = fedm2ct.build(tiny.setup(**changes))
    client, metamodel = halves.clients["A"], halves.server.metamodel
    shared, simulated = halves.server.initial_shared(), {"site": [], "server": []}

    def noted(simulate, where):
        def simulated_anew(round_index):
            simulated[where].append(round_index)
            return simulate(round_index)

        return simulated_anew

    client.cross.acquire = noted(client.cross.acquire, "site")
    metamodel.source.training = noted(metamodel.source.training, "server")
    for round_index in range(1, 5):
        client.fit(round_index, shared)
        metamodel.train(without_prefix(shared), round_index)
    assert simulated == {"site": expected, "server": expected}
