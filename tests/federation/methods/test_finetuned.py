"""FedAvg and fine-tuning: FedPer until it begins, alone from then on."""

import pytest

from fedm2ct.federation.methods import fedper, finetuned
from fedm2ct.federation.methods.finetuned import federated_rounds
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
OPTIONS = {"method": {"finetuned": {"share": 0.5}}, "training": {"rounds": 4}}


@pytest.mark.parametrize(
    ("share", "rounds", "expected"), [(0.25, 12, 9), (0.5, 4, 2), (1.0, 4, 1), (0.01, 4, 3)]
)
def test_when_fine_tuning_begins(share, rounds, expected):
    assert federated_rounds(share, rounds) == expected


def rounds_of(halves, count):
    """Run rounds without the engine; return the global model after each."""
    shared, after = halves.server.initial_shared(), []
    for round_index in range(1, count + 1):
        uploads = [halves.clients[n].fit(round_index, shared) for n in sorted(halves.clients)]
        shared = halves.server.aggregate(round_index, shared, uploads).shared
        after.append(shared)
    return after


def test_it_is_fedper_until_it_begins_and_the_global_model_stays_from_then_on():
    halves = finetuned.build(tiny.setup(**OPTIONS))
    after = rounds_of(halves, 4)
    for ours, theirs in zip(
        after[:2], rounds_of(fedper.build(tiny.setup(**OPTIONS)), 2), strict=True
    ):
        assert tiny.same(ours, theirs)
    assert tiny.same(after[1], after[2]) and tiny.same(after[2], after[3])
    a, b = (t.model.shared_state() for t in halves.trainers.values())
    assert not tiny.same(a, after[3]) and not tiny.same(b, after[3]) and not tiny.same(a, b)


def test_each_round_alone_goes_on_from_the_one_before():
    """What is sent down then makes no difference, and the end does not overwrite it."""
    results = []
    for other in (0.0, 1.0):
        halves = finetuned.build(tiny.setup(**OPTIONS))
        shared = rounds_of(halves, 3)[-1]
        sent = {n: t + other for n, t in shared.items()}
        client = halves.clients["A"]
        assert tiny.same(client.fit(4, sent).shared, sent)
        client.finish(sent)
        results.append(halves.trainers["A"].model.shared_state())
    assert tiny.same(*results)


def test_what_is_tuned_is_validated():
    halves = finetuned.build(tiny.setup(**OPTIONS))
    shared = rounds_of(halves, 2)[-1]
    trainer, scores = halves.trainers["A"], []
    validate = trainer.validate
    trainer.validate = lambda: (
        scores.append(validate()["val_psnr_db"]) or {"val_psnr_db": scores[-1]}
    )
    for round_index, expected in ((3, 2), (4, 1)):  # the global network once more, then its own
        scores.clear()
        upload = halves.clients["A"].fit(round_index, shared)
        assert len(scores) == expected
        assert upload.metrics["val_psnr_db"] == scores[-1] == validate()["val_psnr_db"]
