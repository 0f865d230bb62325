"""The comparison of losses without truth, on a federation of three tiny sites."""

import json
from argparse import Namespace

import hybrid
import pytest
from hybrid_page import page

from fedm2ct.config import parse_config
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.run import run_method
from fedm2ct.pipeline.settings import load_setting
from tests import runs, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ADDED = " --scans DIR --test-patients 9"
SOME = ["fbp", "start", "alone", "fedfdd", "none", "thinning-teacher"]


@pytest.fixture
def base(tmp_path):
    """The setting's form, small: its method's options, and three sites, two without pairs."""
    folder = runs.write_patients(tmp_path / "scans")
    setting = load_setting("hybrid", "tiny", phantoms=True).config.model_dump(mode="json")
    patients = {"A": "ann", "B": "bob", "D": "cat"}
    sites = [
        {**site, "scans": [f"{folder}/{patients[site['name']]}.npz"], "slices": 7}
        for site in setting["sites"]
        if site["name"] in patients
    ]
    return parse_config(
        {
            **setting,
            "image_size": 16,
            "sites": sites,
            "test": {"scans": [f"{folder}/dan.npz"], "slices": 2},
            "meta": {**setting["meta"], "scans": [f"{folder}/evelyn.npz"], "slices": 3},
            "model": {**setting["model"], "width": 2},
        }
    )


def test_rows_are_stored_and_not_done_again(base, tmp_path, capsys):
    options = Namespace(work=tmp_path / "work", rows=SOME[:2], results=tmp_path / "r.json")
    hybrid.run(options, base, ADDED)
    first = json.loads(options.results.read_text())["rows"]
    assert list(first) == SOME[:2]
    assert first["fbp"]["sites"] != first["start"]["sites"]
    options.rows = SOME
    hybrid.run(options, base, ADDED)
    results = json.loads(options.results.read_text())
    assert list(results["rows"]) == SOME
    assert all(results["rows"][name] == first[name] for name in first)
    titles = {name: row.title for name, row in hybrid.ROWS.items()}
    text = page(results, titles)
    assert f"hybrid.py --size tiny{ADDED}   # goes" in text
    for name in SOME:
        assert text.count(f"| {titles[name]} |") >= 2
    psnr = results["rows"]["fedfdd"]["sites"]["D"][""]["psnr_db"]
    assert f"{psnr:.2f}" in text and "–" in text  # LPIPS was not asked for
    with pytest.raises(FedM2CTError, match="another configuration"):
        hybrid.run(options, base.model_copy(update={"image_size": 24}), ADDED)


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_a_page_without_results_is_refused_in_one_sentence(tmp_path, content, capsys):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    assert hybrid.main(["--rounds", "7", "--page-only", "--results", str(path)]) == 1
    assert f"Error: {path}: holds no results; run it first" in capsys.readouterr().err


def test_downloads_of_another_schedule_are_not_read(base, tmp_path):
    """The learning rate's schedule ends with the rounds: a longer one's beginning is another."""
    cohort = hybrid.read_cohort(base)
    data = base.model_dump(mode="json")
    shorter = parse_config({**data, "training": {**data["training"], "rounds": 1}})
    long, short = (hybrid.downloads(c, "fedavg", cohort, tmp_path) for c in (base, shorter))
    alone = hybrid.downloads(shorter, "fedavg", cohort, tmp_path / "alone")
    assert tiny.same(short[1], alone[1]) and not tiny.same(short[1], long[1])


def test_a_row_on_stored_downloads_is_the_federated_run(base, tmp_path):
    """What the benchmark saves by training the others once changes nothing."""
    row = hybrid.ROWS["thinning-teacher"]
    config = hybrid.config_of(row, base)
    cohort = hybrid.read_cohort(config)
    work = tmp_path / "work"
    whole = hybrid.halves_of(config, "fedm2ct", cohort, work)
    run_method(
        whole.server, whole.clients, 2, tmp_path / "run", resume=False, seed=0, fingerprint="x"
    )
    other = hybrid.config_of(hybrid.ROWS["none"], base)
    hybrid.downloads(other, "fedm2ct", cohort, work)
    parts = hybrid.halves_of(config, "fedm2ct", cohort, work)
    sent = hybrid.downloads(config, "fedm2ct", cohort, work)
    for index, shared in enumerate(sent[:-1], 1):
        parts.clients["B"].fit(index, shared)
    parts.clients["B"].finish(sent[-1])
    assert tiny.same(parts.trainers["B"].best, whole.trainers["B"].best)
