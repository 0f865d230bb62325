"""Planted lesions: answers that are known by hand."""

import numpy as np
import pytest
from scipy import ndimage

from fedm2ct.evaluation.lesions import Probe, places_mm, probe, recovered, ring_mm

SIZE = 41


def small_disc(row=20, column=20, radius=1.5):
    y, x = np.mgrid[:SIZE, :SIZE]
    return (np.hypot(x - column, y - row) <= radius).astype(float)


def at(row=20, column=20, diameter=3.0):
    """Return the probe of a disc at a pixel, where a pixel is 1 mm."""
    middle = (SIZE - 1) / 2
    return probe(
        small_disc(row, column, diameter / 2), column - middle, middle - row, diameter, 1.0
    )


@pytest.fixture
def scene():
    """Return a structured truth and the same with a lesion of -40 HU."""
    anatomy = 30 * np.sin(np.arange(SIZE) / 3)[:, None] + np.arange(SIZE) * 2.0
    return anatomy, anatomy - 40 * small_disc()


def test_the_truth_itself_shows_all_of_it(scene):
    without, with_lesion = scene
    assert recovered(at(), with_lesion, without, with_lesion, without) == pytest.approx((1, 1))


def test_an_image_without_the_lesion_shows_nothing(scene):
    without, with_lesion = scene
    assert recovered(at(), without, without, with_lesion, without) == pytest.approx((0, 0))


def test_half_of_the_contrast_is_half_of_it(scene):
    without, with_lesion = scene
    half = without - 20 * small_disc()
    assert recovered(at(), half, without, with_lesion, without) == pytest.approx((0.5, 0.5))


def test_a_blurred_image_shows_what_is_worked_out_by_hand():
    """A lesion of one pixel under a 3 x 3 mean: a ninth of it stays, nothing reaches the ring."""
    truth = np.zeros((SIZE, SIZE))
    lesion = small_disc(radius=0.5)
    assert lesion.sum() == 1
    blurred = ndimage.uniform_filter(90.0 * lesion, 3)
    assert blurred[20, 20] == pytest.approx(10) and blurred[19, 21] == pytest.approx(10)
    where = probe(lesion, 0.0, 0.0, 1.0, 1.0)
    found = recovered(where, blurred, truth, 90.0 * lesion, truth)
    assert found == pytest.approx((1 / 9, 1 / 9))


def test_a_blur_that_reaches_the_ring_counts_against_it():
    """Five by five pixels of 25 HU each: 1 HU everywhere within two pixels, the ring included."""
    lesion = small_disc(radius=0.5)
    ring = np.zeros((SIZE, SIZE), bool)
    ring[20, [18, 22]] = ring[[18, 22], 20] = True
    blurred = ndimage.uniform_filter(25.0 * lesion, 5)
    zero = np.zeros((SIZE, SIZE))
    found = recovered(Probe(lesion, ring), blurred, zero, 25.0 * lesion, zero)
    assert found == pytest.approx((0, 0), abs=1e-12)


def test_an_error_of_the_anatomy_is_in_the_direct_contrast_only(scene):
    without, with_lesion = scene
    streak = 8.0 * small_disc()  # brighter where the lesion is dark
    found = recovered(at(), with_lesion + streak, without + streak, with_lesion, without)
    assert found == pytest.approx((1.0, 1 - 8 / 40))


def test_a_constant_offset_is_none_of_it(scene):
    without, with_lesion = scene
    found = recovered(at(), with_lesion + 500, without + 500, with_lesion, without)
    assert found == pytest.approx((1, 1))


def test_pixels_that_are_covered_in_part_count_in_part():
    disc = np.zeros((SIZE, SIZE))
    disc[20, 20], disc[20, 21] = 1.0, 0.5
    image = np.zeros((SIZE, SIZE))
    image[20, 20], image[20, 21] = 6.0, 3.0
    assert probe(disc, 0.0, 0.0, 2.0, 1.0).contrast(image) == pytest.approx((6 + 1.5) / 1.5)


def test_the_ring_is_off_the_lesion_and_as_wide_as_stated():
    inner, outer = ring_mm(10.0, 0.5)
    assert (inner, outer) == (5.75, 9.75)
    assert ring_mm(10.0, 3.0) == (9.5, 15.5)
    where = at(12, 27, 6.0)
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(x - 27, y - 12)
    np.testing.assert_array_equal(where.ring, (distance >= 4.5) & (distance <= 8.5))
    assert not (where.ring & (where.disc > 0)).any()


def body(size=101):
    """Return a water body with a lung, a bone and a half of it uneven, where a pixel is 2 mm."""
    y, x = np.mgrid[:size, :size]
    truth = np.full((size, size), -1000.0)
    truth[np.hypot(x - 50, y - 50) < 45] = 30.0
    truth[np.hypot(x - 30, y - 50) < 14] = -800.0
    truth[np.hypot(x - 50, y - 80) < 8] = 700.0
    uneven = (truth == 30.0) & (y < 50)
    truth[uneven] += 20 * np.sin(x[uneven])
    return truth


def test_places_are_in_even_soft_tissue_apart_and_within_reach():
    truth, reach = body(), 12.0
    places = places_mm(truth, 2.0, reach, 4, within_mm=100.0)
    assert len(places) == 4
    y, x = np.mgrid[:101, :101]
    for k, (px, py) in enumerate(places):
        distance = 2.0 * np.hypot(x - 50 - px / 2, 50 - y - py / 2)
        around = truth[distance <= reach]
        assert around.min() >= -150 and around.max() <= 200
        assert py < 0  # the even half
        for qx, qy in places[:k]:
            assert np.hypot(px - qx, py - qy) >= 2 * reach
        assert np.hypot(px, py) + reach <= 100
    assert places == places_mm(truth, 2.0, reach, 4, within_mm=100.0)
    assert places[:2] == places_mm(truth, 2.0, reach, 2, within_mm=100.0)


def test_where_there_is_no_room_there_is_no_place():
    assert places_mm(body(), 2.0, 60.0, 4, within_mm=100.0) == []
    assert places_mm(np.full((20, 20), -1000.0), 2.0, 4.0, 4, within_mm=20.0) == []
    near = places_mm(body(), 2.0, 6.0, 50, within_mm=30.0)
    assert near and all(np.hypot(x, y) <= 24 for x, y in near)
