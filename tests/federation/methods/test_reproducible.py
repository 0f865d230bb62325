"""Every method through the engine: the same bits under one seed, and after any interruption."""

import pytest
import torch

from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.pooled import MEMBER
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import load_tensors
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
ROUNDS, SEED = 3, 3
VARIANTS = {
    "local": {},
    "local_public": {},
    "fedavg": {},
    "fedavg_cross": {},
    "fedper": {},
    "fedprox": {"method": {"fedprox": {"mu": 1.0}}},
    "fednova": {"training": {"local_steps": 5}},
    "scaffold": {},
    "feddyn": {},
    "moon": {"method": {"moon": {"mu": 5.0}}},
    "fedrep": {},
    "ditto": {},
    "finetuned": {"method": {"finetuned": {"share": 0.7}}},
    "fml": {},
    "fedkd": {},
    "hyperfed": {},
    "fedmri": {},
    "fedfdd": {},
    "fedct": {},
    "sc3fl": {},
    "scanphysfed": {"method": {"scanphysfed": {"weight": 1.0}}},
    "pooled": {},
    "pooled_plain": {},
    "fedm2ct": {},
    "fedm2ct cross-protocol": {"fedm2ct": {"cross_protocol": 1.0}, "model": {"start": "tv"}},
    "fedm2ct simulates now and then": {
        "fedm2ct": {"cross_protocol": 1.0},
        "training": {"simulate_every": 2},
    },
    "fedm2ct in bfloat16": {"training": {"precision": "bfloat16"}},
    "fedm2ct contributed": {"meta": {"source": "contributed"}},
    "fedm2ct no exchange": {"fedm2ct": {"exchange": False}},
    "fedm2ct hybrid": {
        "unpaired": ("A",),
        "hybrid": {"loss": ["thinning", "equivariance", "teacher", "public"]},
    },
    "fedm2ct from tv": {"model": {"start": "tv"}},
    "fedfdd from sirt": {"model": {"start": "sirt"}},
    "fedper hybrid": {"unpaired": ("A",)},
    "local hybrid": {"unpaired": ("A",), "hybrid": {"loss": ["noise2inverse", "split-views"]}},
    "pooled hybrid": {"unpaired": ("A",)},
}
EVERY = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True, scope="module")
def few_iterations():
    """Start from images of few iterations: what they are does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.model.start.TV_ITERATIONS", 10)
        patch.setattr("fedm2ct.model.start.SIRT_ITERATIONS", 10)
        yield


class Interrupted(Exception):
    """A run that is broken off."""


def run(variant, folder, *, seed=SEED, stop_after=None, resume=False):
    """Run a variant to its end, or until a round is stored; return its halves."""

    def on_event(event):
        assert event["event"] not in ("dropped", "failed"), event
        if event["event"] == "checkpoint" and event["round"] == stop_after:
            raise Interrupted

    halves = METHODS[variant.split()[0]](tiny.setup(seed, **VARIANTS[variant]))
    run_method(
        halves.server,
        halves.clients,
        ROUNDS,
        folder,
        resume=resume,
        seed=seed,
        fingerprint="config",
        on_event=on_event,
    )
    return halves


def everything(folder, halves):
    """Return all that a run ends with: stored states, and the models that are written out."""
    files = [
        folder / "checkpoints" / f"round-{ROUNDS:04d}.safetensors",
        *sorted(folder.glob(f"sites/*/private-{ROUNDS:04d}.safetensors")),
    ]
    assert len(files) == 1 + len(halves.clients)
    result = {f"{path}/{n}": t for path in files for n, t in load_tensors(path)[0].items()}
    for name, trainer in halves.trainers.items():
        result |= {f"{name}/best/{n}": t for n, t in trainer.best.items()}
    return {n.removeprefix(str(folder)): t for n, t in result.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that runs a variant once and remembers what it ended with."""
    done = {}

    def result(variant):
        if variant not in done:
            folder = tmp_path_factory.mktemp("whole")
            done[variant] = everything(folder, run(variant, folder))
        return done[variant]

    return result


@pytest.mark.parametrize("variant", ["local", "pooled", "fedm2ct"])
def test_the_seed_decides_and_nothing_else(variant, tmp_path, uninterrupted):
    torch.manual_seed(99)
    again, other = (
        everything(tmp_path / str(seed), run(variant, tmp_path / str(seed), seed=seed))
        for seed in (SEED, SEED + 1)
    )
    assert tiny.same(again, uninterrupted(variant))
    assert other.keys() == again.keys()
    assert not tiny.same(other, again)


@EVERY
@pytest.mark.parametrize("stops", [(1,), (2, 3)])  # two rounds go on from one, one from two
def test_a_run_broken_off_gives_the_same_bits(variant, stops, tmp_path, uninterrupted):
    torch.manual_seed(99)
    for last in stops:
        with pytest.raises(Interrupted):
            run(variant, tmp_path, stop_after=last, resume=last != stops[0])
    halves = run(variant, tmp_path, resume=True)
    assert tiny.same(everything(tmp_path, halves), uninterrupted(variant))
    if variant.startswith("pooled"):
        assert set(halves.clients) == {MEMBER}
        a, b = (halves.trainers[name].model.shared for name in ("A", "B"))
        assert a is b


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_an_iterative_image_and_trains_in_bfloat16(method, tmp_path):
    changes = {
        "model": {"start": "sirt"},
        "training": {"precision": "bfloat16"},
        "fedm2ct": {"cross_protocol": 1.0},
    }
    halves = METHODS[method](tiny.setup(**changes))
    dropped = []

    def on_event(event):
        if event["event"] in ("dropped", "failed", "warning"):
            dropped.append(event)

    run_method(
        halves.server,
        halves.clients,
        ROUNDS,
        tmp_path,
        seed=3,
        resume=False,
        fingerprint="config",
        on_event=on_event,
    )
    assert dropped == []
    assert all(trainer.best_psnr > 0 for trainer in halves.trainers.values())
