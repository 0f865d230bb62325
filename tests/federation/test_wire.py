"""What travels: no private tensor, no image and no patient, in no message, log or file."""

import logging
from dataclasses import replace

import pytest
import torch

from fedm2ct.federation.method import Upload
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.cross_protocol_client import CrossProtocolClient
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import load_tensors

from .. import tiny
from ..runs import cli, run_jobs_here, write_config, write_patients
from .canary import (
    PIXEL,
    TEXTS,
    VALUE,
    found_in,
    outside_of_sites,
    plant_in_images,
    plant_in_model,
    private_rows,
    record_wire,
    rows_of,
    spellings,
)
from .toy import CANARY, SITES, ToyClient, run_toy, toy_clients

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
ROUNDS = 2
FEDERATED = [name for name in METHODS if not name.startswith("pooled")]
# What SCAFFOLD remembers is its control variate, of which it sends the change, from zero at first;
# what MOON and FedMRI remember is the network that they have sent before.
DECLARED = dict.fromkeys(("scaffold", "moon", "fedmri"), ("memory.", "counted."))
# Ditto pulls its own network towards the download, past the planted values' missing gradients.
MOVED = {"ditto": "private."}


def planted(method):
    """Return a method's halves with canaries everywhere, and the private parameters' names."""
    setup = tiny.setup(model={"width": 2}, fedm2ct={"cross_protocol": 1.0})
    for task in setup.tasks:
        plant_in_images(task.train)
        plant_in_images(task.validation)
    halves = METHODS[method](setup)
    names = {site: plant_in_model(t.model) for site, t in halves.trainers.items()}
    return setup, halves, names


@pytest.mark.parametrize("method", FEDERATED)
def test_no_private_tensor_and_no_image_leaves_its_site(method, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    setup, halves, names = planted(method)
    sent = record_wire(monkeypatch)
    private = set()

    def remember(event):
        if event["event"] == "site":
            site = event["site"]
            shared = set(halves.trainers[site].model.shared_state())
            state = halves.clients[site].private_state()
            declared = DECLARED.get(method, "nothing")
            kept = {n: t for n, t in state.items() if not n.startswith(declared)}
            private.update(private_rows(kept, shared))

    run_method(
        halves.server, halves.clients, ROUNDS, tmp_path,
        resume=False, seed=3, fingerprint="c", on_event=remember,
    )  # fmt: skip
    images = set()
    for task in setup.tasks:
        for data in (task.train, task.validation):
            images |= rows_of(data.truth) | rows_of(data.projections) | rows_of(data.clean)
    crossing = [c.cross for c in halves.clients.values() if isinstance(c, CrossProtocolClient)]
    assert len(crossing) == (2 if method in ("fedm2ct", "fedavg_cross") else 0)
    for cross in crossing:
        for acquired in map(cross.acquire, range(1, ROUNDS + 1)):
            images |= rows_of(acquired.truth) | rows_of(acquired.seen)
    assert len(private) > 50 and len(images) > 50
    needles = {*spellings(VALUE), *spellings(PIXEL), *private, *images}
    assert len(sent) == 2 * len(halves.clients) * (ROUNDS + 1)
    assert found_in(sent, needles) == set()
    for path, content in outside_of_sites(tmp_path):
        assert found_in([content], needles) == set(), path
    assert found_in([caplog.text.encode()], needles) == set()
    for site, planted_names in names.items():  # they were there all the time
        stored, _ = load_tensors(tmp_path / "sites" / site / f"private-{ROUNDS:04d}.safetensors")
        staying = [n for n in planted_names if not n.startswith(MOVED.get(method, "nothing"))]
        assert staying
        for name in staying:
            tensor = stored[f"model.{name}"]
            assert float(tensor[(0,) * tensor.dim()]) == float(torch.tensor(VALUE))


class Leaking(ToyClient):
    """Sends something private where something shared belongs."""

    def __init__(self, site, way):
        super().__init__(site)
        self.way = way

    def fit(self, round_index, shared):
        good = super().fit(round_index, shared)
        secret = float(self.canary[0])
        if self.way == "weight":
            state = {n: t.clone() for n, t in good.shared.items()}
            state["bias"][0] = secret
            return replace(good, shared=state)
        if self.way == "metric":
            return replace(good, metrics={"loss": secret})
        if self.way == "metric's name":
            return replace(good, metrics={f"loss.{secret!r}": 1.0})
        if self.way == "another tensor":
            return replace(good, shared={**good.shared, "canary": self.canary})
        if self.way == "log":
            logging.getLogger("fedm2ct").warning("diverged at %r", secret)
        return good


@pytest.mark.parametrize("way", ["weight", "metric", "metric's name", "another tensor"])
def test_a_leak_would_be_found_in_the_messages(tmp_path, monkeypatch, way):
    sent = record_wire(monkeypatch)
    needles = {*spellings(CANARY), repr(CANARY).encode(), *rows_of(torch.tensor([CANARY, CANARY]))}
    needles |= {torch.tensor(CANARY, dtype=torch.float64).numpy().tobytes()}
    run_toy(tmp_path / "honest", rounds=1)
    assert found_in(sent, needles) == set()
    run_toy(tmp_path / "leaking", rounds=1, clients=toy_clients(B=Leaking("B", way)))
    assert found_in(sent, needles) != set()


def test_a_leak_would_be_found_in_logs_and_files(tmp_path, caplog):
    clients = toy_clients(B=Leaking("B", "metric"), C=Leaking("C", "log"))
    run_toy(tmp_path, rounds=1, clients=clients)
    needles = {repr(CANARY).encode()}
    assert found_in([caplog.text.encode()], needles)
    holding = {p.name for p, content in outside_of_sites(tmp_path) if found_in([content], needles)}
    assert holding == {"metrics.jsonl"}


def test_rows_of_real_images_are_recognised(tmp_path, monkeypatch):
    """The way of looking that the methods are tested with finds an image that is sent."""
    task = tiny.task("A")
    image = task.train.truth[0, 0]

    class SendsAnImage(ToyClient):
        def fit(self, round_index, shared):
            good = super().fit(round_index, shared)
            return Upload(good.site, {**good.shared, "image": image}, good.samples)

    sent = record_wire(monkeypatch)
    run_toy(tmp_path, rounds=1, clients=toy_clients(B=SendsAnImage("B")))
    assert found_in(sent, rows_of(task.train.truth)) == rows_of(image)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, one_thread):
    """A run by the command line on scans whose every field is a canary; what was said and sent."""
    folder = tmp_path_factory.mktemp("wire")
    scans = write_patients(folder / "canary-path")
    sent, tasks = [], []

    def marked(load):
        def loaded(name):
            scan = load(name)
            if not name.endswith(("dan.npz", "evelyn.npz")):  # the test's and the server's own
                scan = replace(
                    scan,
                    name=f"canary-name {scan.name}",
                    patient=f"canary-patient {scan.patient}",
                    provenance={**scan.provenance, "station": "canary-provenance"},
                )
            return scan

        return loaded

    def remembered(make):
        def made(cohort, seed):
            tasks.append(make(cohort, seed))
            return tasks[-1]

        return made

    with pytest.MonkeyPatch.context() as patch:
        from fedm2ct.pipeline import prepare, unit

        patch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
        patch.setattr(prepare, "load_any", marked(prepare.load_any))
        patch.setattr(unit, "site_tasks", remembered(unit.site_tasks))
        sent = record_wire(patch)
        # the test patient and the public scan are named, so they lie elsewhere
        for name in ("dan", "evelyn"):
            (folder / f"{name}.npz").write_bytes((scans / f"{name}.npz").read_bytes())
        config = write_config(
            folder / "tiny.toml",
            scans,
            methods=("fbp", "fedavg", "fedm2ct"),
            rounds=2,
            change=lambda text: text.replace(f"{scans}/dan", f"{folder}/dan").replace(
                f"{scans}/evelyn", f"{folder}/evelyn"
            ),
        )
        assert cli("train", config, "--out", folder / "run") == 0
    return folder / "run", sent, [task for made in tasks for task in made]


def test_no_patient_field_is_in_a_message_or_outside_its_site(whole_run):
    run, sent, tasks = whole_run
    texts = [text.encode() for text in (*TEXTS, "ann", "bob", "cat")]
    images = set()
    for task in tasks:
        for data in (task.train, task.validation):
            images |= rows_of(data.truth) | rows_of(data.projections) | rows_of(data.clean)
    assert len(sent) == 2 * 2 * 2 * 3 and len(images) > 50
    assert found_in(sent, {*texts[: len(TEXTS)], *images}) == set()
    for path, content in outside_of_sites(run):
        assert found_in([content], {*texts[: len(TEXTS)], *images}) == set(), path
        assert b"ann.npz" not in content and b"bob.npz" not in content, path


def test_the_patient_fields_are_in_the_sites_folders_where_they_belong(whole_run):
    run, _, _ = whole_run
    for site in ("A", "B"):
        about = (run / "sites" / site / "scans.json").read_text()
        assert all(text in about for text in ("canary-patient", "canary-provenance", "canary-path"))
    assert "ann.npz" in (run / "sites" / "A" / "scans.json").read_text()
    assert "ann.npz" not in (run / "sites" / "B" / "scans.json").read_text()


def test_names_of_metrics_that_travel_are_few_and_plain(whole_run):
    run, _, _ = whole_run
    import json

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines if line["site"] in SITES for name in line}
    assert names <= {
        "method", "seed", "event", "round", "site", "bytes_up", "bytes_down", "seconds",
        "samples", "loss", "private_weight", "val_psnr_db", "val_private_psnr_db",
        "val_shared_psnr_db", "best_val_psnr_db",
    }  # fmt: skip
