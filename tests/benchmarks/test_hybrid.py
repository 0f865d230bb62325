"""The comparison of losses without truth, on a federation of three tiny sites."""

import json
from argparse import Namespace

import hybrid
import pytest
from hybrid_page import page

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.run import run_method
from tests import runs, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SOME = ["fbp", "alone", "fedfdd", "none", "thinning-teacher"]


@pytest.fixture
def base(tmp_path):
    folder = runs.write_patients(tmp_path / "scans")
    protocols = {"A": "demo-low-mas", "B": "demo-sparse", "D": "demo-parallel"}
    patients = zip(protocols.items(), ("ann", "bob", "cat"), strict=True)
    sites = [
        {"name": site, "protocol": protocol, "scans": [f"{folder}/{scan}.npz"], "slices": 7}
        for (site, protocol), scan in patients
    ]
    return {
        **hybrid.CONFIG,
        "image_size": 16,
        "sites": sites,
        "test": {"scans": [f"{folder}/dan.npz"], "slices": 2},
        "meta": {"scans": [f"{folder}/evelyn.npz"], "slices": 3},
        "model": {"width": 2},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 2},
        "fedm2ct": {"meta_steps": 2, "ramp_rounds": 1},
        "evaluation": {"perceptual": False},
    }


def test_rows_are_stored_and_not_done_again(base, tmp_path, capsys):
    options = Namespace(work=tmp_path / "work", rows=SOME[:2], results=tmp_path / "r.json")
    hybrid.run(options, base)
    first = json.loads(options.results.read_text())["rows"]
    assert list(first) == SOME[:2]
    options.rows = SOME
    hybrid.run(options, base)
    results = json.loads(options.results.read_text())
    assert list(results["rows"]) == SOME
    assert all(results["rows"][name] == first[name] for name in first)
    titles = {name: row.title for name, row in hybrid.ROWS.items()}
    text = page(results, titles)
    for name in SOME:
        assert text.count(f"| {titles[name]} |") >= 2
    psnr = results["rows"]["fedfdd"]["sites"]["D"][""]["psnr_db"]
    assert f"{psnr:.2f}" in text and "–" in text  # LPIPS was not asked for
    with pytest.raises(FedM2CTError, match="another configuration"):
        hybrid.run(options, {**base, "image_size": 24})


def test_a_row_on_stored_downloads_is_the_federated_run(base, tmp_path):
    """What the benchmark saves by training the others once changes nothing."""
    row = hybrid.ROWS["thinning-teacher"]
    config = hybrid.config_of(row, base)
    cohort = hybrid.read_cohort(config)
    whole = hybrid.halves_of(config, "fedm2ct", cohort)
    run_method(
        whole.server, whole.clients, 2, tmp_path / "run", resume=False, seed=0, fingerprint="x"
    )
    other = hybrid.config_of(hybrid.ROWS["none"], base)
    hybrid.downloads(other, "fedm2ct", cohort, tmp_path / "work")
    parts = hybrid.halves_of(config, "fedm2ct", cohort)
    sent = hybrid.downloads(config, "fedm2ct", cohort, tmp_path / "work")
    for index, shared in enumerate(sent[:-1], 1):
        parts.clients["B"].fit(index, shared)
    parts.clients["B"].finish(sent[-1])
    assert tiny.same(parts.trainers["B"].best, whole.trainers["B"].best)
