"""The scripts behind docs/privacy.md, at their smallest, and the page that they made."""

import json
import subprocess
import sys
from pathlib import Path

import federation_runs
import privacy_page
import pytest
import scale
from federation_runs import against, configured, measure_all

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
PHANTOMS = {
    "test": {"scans": ["phantom-8"], "slices": 2},
    "meta": {"scans": ["phantom-9"], "slices": 2},
    "training": {"rounds": 2, "local_steps": 2, "batch_size": 2},
    "model": {"width": 2},
}


def test_the_page_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert privacy_page.with_tables(page) == page, "run python benchmarks/privacy_page.py"
    for name, (file, _) in privacy_page.PARTS.items():
        assert (privacy_page.RESULTS / file).exists(), name


@pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
def test_variants_differ_in_what_was_changed_only(tmp_path, monkeypatch, one_thread):
    phantoms = federation_runs.load_config(federation_runs.DEMO).model_dump(mode="json")
    for number, site in enumerate(phantoms["sites"], 1):
        site.update(scans=[f"phantom-{number}"], slices=4)
    demo = federation_runs.parse_config(
        {**phantoms, "test": PHANTOMS["test"], "meta": PHANTOMS["meta"]}
    )
    monkeypatch.setattr(federation_runs, "load_config", lambda path: demo)
    variants = {
        "none": {},
        "again": {},
        "int8": {"federation": {"compression": "int8"}},
    }
    found = measure_all(variants, ["fedavg"], [0], changes=PHANTOMS, image_size=16)["fedavg"]
    differences = against(found, "none")
    assert differences["again"] == {"mean": 0.0, "least": 0.0, "largest": 0.0}
    assert 0 < abs(differences["int8"]["mean"]) < 0.5
    assert found["int8"]["bytes_up"] < found["none"]["bytes_up"]
    assert found["none"]["dropped"] == {"0": 0}
    assert configured({}, methods=["fedavg"]).image_size == federation_runs.IMAGE_SIZE


@pytest.mark.parametrize("mode", ["server", "whole"])
def test_a_line_of_the_scale_table(mode):
    command = [sys.executable, scale.__file__, "--rounds", "3", "--child", mode, "3"]
    source = str(Path(scale.__file__).parents[1] / "src")
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["round_cpu_s"] > 0 and line["peak_growth_mb"] >= 0
