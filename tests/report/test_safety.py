"""The tables of residuals and planted lesions."""

from fedm2ct.report.html import write_report
from fedm2ct.report.safety import CONSISTENCY, lesion_note, lesion_tables, safety_context
from fedm2ct.report.tables import metric_rows
from tests.report.conftest import SITES


def lesions():
    def entry(mean, sd):
        return {"recovered": {"mean": mean, "sd": sd, "n": 4}, "direct": {"mean": 101.6, "sd": 30}}

    return {
        "methods": {
            "fedm2ct": {
                "sites": {SITES[0]: entry(61.4, 12.3), SITES[1]: entry(-3.0, None)},
                "mean": {"recovered": 29.2, "direct": 101.6},
            },
            "fbp": {
                "sites": {SITES[0]: entry(90.0, 1.0)},
                "mean": {"recovered": 90.0, "direct": 101.6},
            },
        },
        "sites": {site: {"pixel_mm": 3.125, "lesions": [{}] * 4} for site in SITES},
        "diameters_mm": [6.0, 10.0],
        "contrasts_hu": [-40.0, 40.0],
        "seed": 0,
    }


def test_lesions_are_printed_as_mean_and_spread_in_the_order_of_methods():
    (title, rows), (_, direct) = lesion_tables(lesions(), SITES)
    assert "100 is all" in title
    assert [row.label for row in rows] == ["FBP", "FedM2CT"]
    assert [cell.text for cell in rows[1].cells] == ["61 ± 12", "−3", "29"]
    assert [cell.text for cell in rows[0].cells] == ["90 ± 1", "–", "90"]
    assert direct[0].cells[0].text == "102 ± 30"
    assert [row.first for row in rows] == [False, True]


def test_the_note_says_what_was_planted_and_where():
    note = lesion_note(lesions(), SITES)
    assert "6 and 10 mm and −40 and +40 HU" in note
    assert f"4 at {SITES[1]} (3.1 mm pixels)" in note
    assert "added to their simulated measurements" in note


def test_no_residual_is_the_best(run):
    for m, name in enumerate(run["summary"]["methods"]):
        for entry in (*run["summary"]["methods"][name]["sites"].values(),):
            entry["residual"] = 1.0 + m
    rows = metric_rows(run["summary"], CONSISTENCY[0], SITES)
    assert rows[1].cells[0].text == "2.00"
    assert not any(cell.best for row in rows for cell in row.cells)


def test_the_page_shows_both(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fedm2ct.report.figures._DPI", 30)
    for entry in run["summary"]["methods"].values():
        for scores in (*entry["sites"].values(), entry["mean"]):
            scores["residual"] = 1.2345
    run["summary"]["lesions"] = lesions()
    write_report(**run, path=tmp_path / "with.html")
    text = (tmp_path / "with.html").read_text(encoding="utf-8")
    assert "1.23" in text and "61 ± 12" in text and "fedm2ct lesions RUN" not in text
    del run["summary"]["lesions"]
    write_report(**run, path=tmp_path / "without.html")
    text = (tmp_path / "without.html").read_text(encoding="utf-8")
    assert "1.23" in text and "61 ± 12" not in text and "fedm2ct lesions RUN" in text
    context = safety_context({"methods": run["summary"]["methods"]})
    assert [title for title, _ in context["consistency"]] == [CONSISTENCY[0].title]
