import pytest

from fedm2ct.report.tables import (
    METRICS,
    communication_rows,
    headline,
    metric_rows,
    metric_tables,
    protocol_row,
    tidy,
)
from tests.report.conftest import METHODS, SITES

BY_KEY = {metric.key: metric for metric in METRICS}
PSNR, RMSE = BY_KEY["psnr_db"], BY_KEY["rmse_hu"]


def best(rows, column):
    return [row.method for row in rows if row.cells[column].best]


def test_best_is_highest_or_lowest_and_never_the_reference(run):
    summary = run["summary"]
    assert best(metric_rows(summary, PSNR, SITES), 0) == ["fedm2ct"]
    assert best(metric_rows(summary, RMSE, SITES), -1) == ["fedm2ct"]
    summary["methods"]["pooled"]["sites"]["South"]["psnr_db"] = 99.0
    summary["methods"]["local"]["sites"]["South"]["psnr_db"] = 98.0
    assert best(metric_rows(summary, PSNR, SITES), 1) == ["local"]


def test_equal_printed_numbers_share_the_first_place(run):
    sites = run["summary"]["methods"]
    sites["local"]["sites"]["South"]["psnr_db"] = 34.001
    assert best(metric_rows(run["summary"], PSNR, SITES), 1) == ["local", "fedm2ct"]


def test_missing_and_nan_are_dashes(run):
    methods = run["summary"]["methods"]
    del methods["fedavg"]["sites"]["South"]
    methods["local"]["sites"]["South"]["psnr_db"] = float("nan")
    texts = {r.method: r.cells[1].text for r in metric_rows(run["summary"], PSNR, SITES)}
    assert texts["fedavg"] == texts["local"] == "–" and texts["fbp"] == "30.00"


def test_tables_without_numbers_are_left_out(run):
    assert len(metric_tables(run["summary"], SITES)) == 3
    run["summary"]["methods"]["local"]["sites"]["South"]["psnr_window_db"] = 20.0
    assert len(metric_tables(run["summary"], SITES)) == 4


def test_headline_says_where_it_is_worse_than_local(run):
    methods = run["summary"]["methods"]
    text = headline(run["summary"], SITES)
    assert "34.00 dB" in text and "+2.00 dB against FedAvg" in text and "+1.00" in text
    assert "Not below local-only" in text
    methods["local"]["sites"]["South"]["psnr_db"] = 34.5
    assert headline(run["summary"], SITES).endswith("Below local-only training at: South.")
    del methods["fedm2ct"]
    assert headline(run["summary"], SITES) == ""


@pytest.mark.parametrize(
    ("angles", "views", "span"),
    [
        ({"views": 40}, "40", "360"),
        ({"views": 120, "span_deg": 120.0}, "120", "120"),
        ({"angles_deg": [0.0, 30.0, 60.0]}, "3", "90"),
        ({"angles_rad": [0.0, 1.5707963]}, "2", "180"),
    ],
)
def test_protocol_row(angles, views, span):
    protocol = {
        "beam": "fan", "detector": "flat", "bins": 64, "pitch_mm": 2.5, "size": 100,
        "pixel_mm": 3.0, "photons": 5e4, "electronic_noise": 8.0, **angles,
    }  # fmt: skip
    row = protocol_row("South", protocol, ["/data/p1.nii"])
    assert row == [
        "South", "fan, flat detector", views, span, "64 × 2.5 mm", "50,000", "8",
        "300 mm (3 mm pixels)", "p1.nii",
    ]  # fmt: skip
    assert set(protocol_row("South", None, [])[1:]) == {"–"}


def test_communication_is_by_round_and_in_all(run):
    rows = {row[0]: row[1:] for row in communication_rows(run["history"])}
    assert len(rows) == len(METHODS) - 1
    assert rows["FedAvg"] == ["3", "2.00", "1.00", "9.0", "9"]


def test_the_final_parameters_count_in_all_and_not_by_round(run):
    last = {"event": "finish", "method": "fedavg", "round": 3, "val_psnr_db": 1.0}
    last |= {"bytes_up": 0, "bytes_down": 500_000, "seconds": 0.0}
    ends = [{**last, "seed": seed, "site": site} for seed in (0, 1) for site in SITES]
    rows = {row[0]: row[1:] for row in communication_rows([*run["history"], *ends])}
    assert rows["FedAvg"] == ["3", "2.00", "1.00", "10.0", "9"]


def test_tidy_drops_folders_only():
    assert tidy({"a": ["/x/y.nii", "lung1", "C:\\d\\z.npz"], "b": "l2/l1", "c": 3}) == {
        "a": ["y.nii", "lung1", "z.npz"],
        "b": "l2/l1",
        "c": 3,
    }


def test_among_many_methods_the_headline_names_the_best_of_each_group(run):
    methods = run["summary"]["methods"]
    for name, psnr in {"sirt": 29.0, "tv": 31.5, "ditto": 33.3, "fedkd": 32.0}.items():
        scores = {**methods["local"]["mean"], "psnr_db": psnr}
        methods[name] = {"sites": {site: scores for site in SITES}, "mean": scores}
    text = headline(run["summary"], SITES)
    for named in ("+2.50 dB against TV", "+0.70 dB against Ditto", "against Local only"):
        assert named in text
    assert "FedAvg" not in text and "FBP" not in text and "against Pooled, prompted*" in text


def test_groups_are_set_apart_and_known_to_the_page(run):
    rows = metric_rows(run["summary"], PSNR, SITES)
    assert [(row.group, row.first) for row in rows] == [
        ("conventional", False), ("local", True), ("federated", True), ("own", True),
        ("reference", True),
    ]  # fmt: skip
    assert rows[-1].label.endswith("*")
