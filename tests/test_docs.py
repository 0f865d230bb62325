"""What the documents repeat of the code must be what the code says."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

from fedm2ct.config import FedM2CTConfig, MethodConfig, parse_config
from fedm2ct.federation.methods import METHODS
from fedm2ct.model.prompt import ANATOMIES, KERNELS
from fedm2ct.physics.protocols import protocol_from_dict
from fedm2ct.pipeline.conventional import CONVENTIONAL
from fedm2ct.pipeline.settings import SETTINGS

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_protocols_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("protocols_page", DOCS / "protocols.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "protocols.md").read_text()
    assert module.with_table(page) == page, "run python docs/protocols.py"


def test_the_protocol_in_the_page_is_one():
    block = re.search(r"```toml\n(.*?)```", (DOCS / "protocols.md").read_text(), re.S)[1]
    sites = tomllib.loads(block)["sites"]
    assert protocol_from_dict(sites[1]["protocol"]).geometry.n_views == 300
    config = {"name": "x", "methods": ["fbp"], "test": {"scans": ["cxr"]}}
    parse_config({**config, "sites": sites, "meta": {"source": "none"}})


def test_the_protocols_page_names_what_the_prompt_knows():
    page = (DOCS / "protocols.md").read_text()
    assert all(f"`{name}`" in page for name in (*KERNELS, *ANATOMIES))


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    later = {"ablation.md", "hybrid.md", "results.md"}  # made by benchmarks
    for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists() or target in later, f"{page}: {target}"


@pytest.mark.parametrize("pages", [("method.md", "rivals.md"), ("evaluation.md",)])
def test_every_method_is_spoken_of(pages):
    text = "".join((DOCS / page).read_text() for page in pages)
    for name in (*CONVENTIONAL, *METHODS):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("method", MethodConfig.model_fields)
def test_every_option_of_a_rival_is_in_its_row_with_its_default(method):
    (row,) = re.findall(rf"^\| `{method}` \|.*$", (DOCS / "rivals.md").read_text(), re.M)
    for name, default in getattr(MethodConfig(), method):
        assert f"`{name}` = {default}" in row, name


def test_every_switch_of_the_method_is_explained():
    text = (DOCS / "method.md").read_text().replace("\\_", "_")
    spoken_of = {"lambda_private": "lambda_p", "lambda_shared": "lambda_s", "prompted": "prompt"}
    for name in FedM2CTConfig.model_fields:
        assert spoken_of.get(name, name) in text, name


def test_every_fault_s_test_exists():
    table = (DOCS / "faults.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| Fault ")]
    assert len(rows) > 20
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for path, name in tests:
            text = (DOCS.parent / path).read_text()
            assert re.search(rf"^def {name}\(", text, re.M), f"{path}::{name}"


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_the_benchmark_s_page_says_of_a_setting_is_in_the_generated_one(setting):
    text = " ".join((DOCS / "benchmark.md").read_text().split())
    name = f"benchmark-{setting}-small.md"
    (section,) = re.findall(
        rf"\[{setting}\]\({name}\): (.*?)(?= \[[a-z -]+\]\(benchmark-|## )", text
    )
    record = json.loads((RESULTS / f"{setting}-small.json").read_text())
    mean = {name: found["mean"] for name, found in record["methods"]["fedm2ct"]["mean"].items()}
    own = f"{mean['psnr_db']:.2f} dB, {mean['ssim']:.4f}, {mean['rmse_hu']:.1f} HU"
    assert own in section
    page = (DOCS / name).read_text().replace("−", "-")
    differences = re.findall(r"[+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", section)
    assert differences
    for difference in differences:
        assert difference in page


def psnrs(results):
    """Return every mean PSNR of stored results, in dB as texts have it."""
    if isinstance(results, list):
        return set().union(*map(psnrs, results))
    if not isinstance(results, dict):
        return set()
    own = results.get("psnr_db")
    own = own.get("mean") if isinstance(own, dict) else own
    found = set().union(*map(psnrs, results.values()))
    return found | {f"{own:.2f}"} if isinstance(own, float) else found


@pytest.mark.parametrize(
    ("page", "start", "end", "results"),
    [
        ("docs/benchmark.md", "[all-in-one](benchmark-", "[hybrid](benchmark-", "all-in-one-small"),
        ("docs/benchmark.md", "[hybrid](benchmark-", "[What each part", "hybrid-small"),
        ("docs/benchmark.md", "[What each part", "[With five", "ablation-all-in-one-small"),
        (
            "docs/benchmark.md",
            "[With five",
            "[With forty",
            "ablation-all-in-one-small-5-slices",
        ),
        (
            "docs/benchmark.md",
            "[With forty",
            "[unseen](benchmark-",
            "ablation-all-in-one-small-40-rounds",
        ),
        ("docs/benchmark.md", "[unseen](benchmark-", "[multi-vendor](benchmark-", "unseen-small"),
        ("docs/benchmark.md", "[multi-vendor](benchmark-", "Planted lesions", "multi-vendor-small"),
        ("docs/benchmark.md", "[What parts", "The folder of", "ablation-multi-vendor-small"),
        ("README.md", "With six sites", "With eight vendors'", "all-in-one-small"),
        ("README.md", "With eight vendors'", "Where half", "multi-vendor-small"),
        ("README.md", "Where half", "In the fourth", "hybrid-small"),
        ("README.md", "In the fourth", "Nor does any federating part", "unseen-small"),
    ],
)
def test_every_psnr_in_the_text_is_one_of_the_results(page, start, end, results):
    text = " ".join((DOCS.parent / page).read_text().split())
    passage = text[text.index(start) : text.index(end)]
    figures = set(re.findall(r"(?<![\d.])\d\d\.\d\d(?!\d)", passage))
    assert figures
    assert figures <= psnrs(json.loads((RESULTS / f"{results}.json").read_text()))


def test_what_the_readme_says_of_longer_training_is_measured():
    text = " ".join((DOCS.parent / "README.md").read_text().split())
    rows = json.loads((RESULTS / "ablation-all-in-one-small.json").read_text())["variants"]
    means = {name: row["mean"]["psnr_db"] for name, row in rows.items()}
    full, alone, local, fedavg = (
        f"{means[long] - means[short]:.2f}"
        for long, short in (
            ("long", "full"),
            ("no-exchange-long", "no-exchange"),
            ("local-long", "local"),
            ("fedavg-long", "fedavg"),
        )
    )
    assert (
        f"Three times as many rounds give it {full} dB ({alone} without the exchange), local "
        f"training {local} and FedAvg {fedavg}."
    ) in text
    stored = json.loads((RESULTS / "ablation-all-in-one-small-40-rounds.json").read_text())
    forty = {name: row["mean"] for name, row in stored["variants"].items()}
    assert abs(forty["full"]["psnr_db"] - means["long"]) < 0.02
    lead = forty["no-exchange"]["rmse_hu"] - forty["full"]["rmse_hu"]
    assert (
        f"Five times as many give it no more PSNR than that, and a lead of {lead:.1f} HU in RMSE "
        "over the same networks without exchange."
    ) in text
