import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fedm2ct.files import StorageError
from fedm2ct.report.html import ReportError, write_report
from fedm2ct.report.style import label
from tests.report.conftest import METHODS, SITES, made_up_run


class Page(HTMLParser):
    """Collect tags, their attributes and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True, scope="module")
def coarse_figures():
    """Draw with few dots: what is tested is on them, not how sharp they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.report.figures._DPI", 40)
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(**made_up_run(), path=path)
    return Page(path.read_text(encoding="utf-8"))


def test_it_holds_all_it_shows(page):
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "href", "srcset", "data", "poster"):
            assert attrs.get(key, "data:").startswith("data:"), (tag, attrs[key][:80])
    assert not re.search(r"https?://|file:|@import|url\(", page.text)
    assert "secret-folder" not in page.text and "demo-run" in page.text


def test_images_are_png_and_described(page):
    images = page.attributes("img")
    assert len(images) == len(SITES) + 1
    for image in images:
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert len(image["alt"]) > 20


@pytest.mark.parametrize("name", [*SITES, *map(label, METHODS), "tester", "scan-N.nii", "0, 1"])
def test_it_names_everything(page, name):
    assert name in page.text


def test_names_are_escaped(page):
    assert not page.attributes("b")


def test_window_and_range_are_stated(page):
    assert "chest window: centre -600 HU, width 1500 HU" in page.text
    assert "-1024 to 3071 HU" in page.text
    assert "[33.50, 34.50]" in page.text and "Brackets: 95% interval." in page.text


def test_it_says_which_slice_is_shown_of_how_many(run, tmp_path):
    for entry in run["summary"]["methods"].values():
        entry["sites"][SITES[1]]["n_slices"] = 60
    write_report(**run, path=tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "(number 2 of 3 slices kept, of 3 tested)" in text
    assert "(number 2 of 3 slices kept, of 60 tested)" in text


def test_images_that_sites_contributed_are_not_said_to_stay_there(page, run, tmp_path):
    stays = "methods that leave patients' images at their site"
    assert stays in page.text and "contributed" not in page.text
    run["summary"]["config"]["meta"] = {"source": "contributed"}
    write_report(**run, path=tmp_path / "report.html")
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    assert stays not in text and "holds slices of patients that the sites contributed" in text
    assert "the sites contributed to FedM2CT's server and the pooled reference" in text


def test_nothing_but_a_summary_is_needed(run, tmp_path):
    run |= {"manifest": {}, "history": [], "arrays": {}}
    run["summary"] = {"methods": run["summary"]["methods"]}
    write_report(**run, path=tmp_path / "new" / "report.html")
    page = Page((tmp_path / "new" / "report.html").read_text(encoding="utf-8"))
    assert "The run kept no images." in page.text and not page.attributes("img")


def test_a_diverged_method_is_reported(run, tmp_path):
    run["arrays"][f"fedavg/{SITES[1]}"][:] = np.nan
    run["summary"]["methods"]["fedavg"]["sites"][SITES[1]]["psnr_db"] = float("nan")
    write_report(**run, path=tmp_path / "report.html")
    assert "nan" not in Page((tmp_path / "report.html").read_text("utf-8")).text


def test_images_of_another_size_are_refused(run, tmp_path):
    run["arrays"][f"local/{SITES[1]}"] = np.zeros((3, 9, 9))
    with pytest.raises(ReportError, match="local/South has shape"):
        write_report(**run, path=tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_report(run, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_report(**run, path=path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
