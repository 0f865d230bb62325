import numpy as np
import pytest

from fedm2ct.report import style
from fedm2ct.report.curves import bytes_per_round, learning_figure, validation_curves
from fedm2ct.report.figures import (
    DIFFERENCE_COLOURS,
    DisplayWindow,
    SiteImages,
    crop_to_body,
    difference_limit_hu,
    site_figure,
)
from tests.report.conftest import METHODS, SITES, ellipse_patient

WINDOW = DisplayWindow("abdomen", 50, 400)
FULL = (-1024.0, 3071.0)


@pytest.fixture
def site():
    truth = ellipse_patient()[0].astype(float)
    methods = {"fbp": truth + 300.0, "local": truth + 60.0, "fedm2ct": truth - 20.0}
    return SiteImages(truth, methods, pixel_mm=7.5)


def drawn(figure):
    return [image for axes in figure.axes for image in axes.images]


def test_one_grey_scale_and_one_difference_scale(site):
    images = drawn(site_figure(site, WINDOW, 80.0, FULL))
    grey = [image for image in images if image.get_cmap().name == "gray"]
    differences = [image for image in images if image.get_cmap().name == DIFFERENCE_COLOURS]
    assert len(grey) == 4 and len(differences) == 3
    assert {image.get_clim() for image in grey} == {(-150.0, 250.0)}
    assert {image.get_clim() for image in differences} == {(-80.0, 80.0)}


def test_differences_are_signed_and_in_their_method_column(site):
    figure = site_figure(site, WINDOW, 80.0, FULL)
    found = [
        (axes.get_position().x0, float(np.mean(axes.images[0].get_array())))
        for axes in figure.axes
        if axes.images and axes.images[0].get_cmap().name == DIFFERENCE_COLOURS
    ]
    assert [value for _, value in sorted(found)] == pytest.approx([300.0, 60.0, -20.0])


def test_scores_and_scale_bar_are_printed(site):
    figure = site_figure(site, WINDOW, 80.0, FULL)
    labels = {axes.get_title(): axes.get_xlabel() for axes in figure.axes if axes.get_title()}
    psnr = 20 * np.log10(4095 / 20)
    assert f"PSNR {psnr:.1f} dB" in labels["FedM2CT"] and "SSIM" in labels["FedM2CT"]
    assert any("RMSE 20 HU" in axes.get_xlabel() for axes in figure.axes)
    assert "50 mm" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_one_limit_for_all_sites_that_fbp_does_not_set(site):
    worse = SiteImages(site.truth, {"fbp": site.truth + 900.0, "local": site.truth + 95.0})
    assert difference_limit_hu([site]) == 60.0
    assert difference_limit_hu([site, worse]) == 100.0
    assert difference_limit_hu([SiteImages(site.truth, {"fbp": site.truth + 300.0})]) == 300.0
    assert difference_limit_hu([SiteImages(site.truth, {"local": site.truth})]) == 20.0


def test_the_crop_holds_the_body():
    truth = ellipse_patient()[0]
    rows, columns = crop_to_body(truth)
    outside = np.ones(truth.shape, bool)
    outside[rows, columns] = False
    assert outside.sum() > 0 and truth[outside].max() == -1000.0
    empty = np.full((7, 9), -1000.0)
    assert empty[crop_to_body(empty)].shape == (7, 9)


def test_curves_are_means_over_seeds_of_the_sites(run):
    curves = validation_curves(run["history"])
    assert set(curves) == set(METHODS) - {"fbp"}
    assert curves["local"][SITES[0]] == {1: 26.5, 2: 27.5, 3: 28.5}


def test_the_end_is_a_point_of_its_own_after_the_last_round(run):
    end = {"event": "finish", "method": "local", "round": 3, "site": SITES[0], "val_psnr_db": 9.0}
    curves = validation_curves([*run["history"], end])
    assert curves["local"][SITES[0]] == {1: 26.5, 2: 27.5, 3: 28.5, 4: 9.0}


def test_bytes_are_summed_over_sites_without_the_server(run):
    assert bytes_per_round(run["history"], "bytes_up")["fedm2ct"] == dict.fromkeys((1, 2, 3), 2e6)


def test_learning_figure_has_every_site_and_method(run):
    figure = learning_figure(run["history"], SITES)
    titles = [axes.get_title() for axes in figure.get_axes()]
    assert titles == ["Mean over sites", *SITES]
    assert all(len(axes.lines) == 4 for axes in figure.get_axes())
    assert learning_figure([], SITES) is None
    missing = [{"method": "local", "site": "South", "round": 1, "val_psnr_db": None}]
    assert learning_figure(missing, SITES) is None


def test_many_methods_go_into_rows_that_do_not_touch(site):
    names = list(style.LABELS)
    assert len(names) >= 25
    crowded = SiteImages(site.truth, dict.fromkeys(names, site.truth), pixel_mm=7.5)
    figure = site_figure(crowded, WINDOW, 80.0, FULL)
    width, height = figure.get_size_inches()
    assert width < 17 and height < 40
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    assert len(boxes) == 1 + 2 * len(names)
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= 1.001 and box.y0 >= 0 and box.y1 <= 1
        assert not any(box.shrunk(0.99, 0.99).overlaps(other) for other in boxes[:k])
    titles = {axes.get_title() for axes in figure.axes}
    assert {style.label(name) for name in names} <= titles


def test_the_key_of_many_curves_is_outside_of_the_panels(run):
    entries = [entry for entry in run["history"] if entry["method"] == "local"]
    names = [name for name in style.LABELS if name not in style.CONVENTIONAL_METHODS]
    figure = learning_figure([{**e, "method": name} for name in names for e in entries], SITES)
    figure.draw_without_rendering()
    legends = [legend for part in figure.subfigs for legend in part.legends]
    (key,) = legends
    assert [text.get_text() for text in key.get_texts()] == [style.label(name) for name in names]
    where = key.get_window_extent()
    assert where.x0 >= 0 and where.x1 <= figure.bbox.x1 and where.y0 >= 0
    assert not any(where.overlaps(axes.get_window_extent()) for axes in figure.get_axes())
