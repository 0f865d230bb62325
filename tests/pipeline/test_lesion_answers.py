"""The planted-lesion test on reconstructors whose answer is known."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedm2ct.data.lesions import plant
from fedm2ct.data.simulate import simulate
from fedm2ct.physics.geometry import ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.assess import to_hu
from fedm2ct.pipeline.lesions import choose_lesions, contrasts
from fedm2ct.pipeline.phantom_scans import phantom_scan

PROTOCOL = Protocol(
    "p",
    ParallelGeometry(equispaced_angles(60, np.pi), 184, 2.5),
    ImageGrid(128, 128, 3.2),
    1e5,
    5.0,
)
KINDS = [(10.0, -40.0), (10.0, 40.0), (16.0, -40.0), (16.0, 40.0)]


@pytest.fixture(scope="module")
def scene():
    data = simulate(phantom_scan("phantom-3"), range(3), PROTOCOL, torch.Generator().manual_seed(2))
    lesions = choose_lesions(to_hu(data.truth), PROTOCOL, KINDS)
    return data, plant(data, lesions, PROTOCOL), lesions


def answers(scene, make):
    """Return each lesion's contrasts where planted and plain projections become what `make` says.

    `make` takes a truth and gives an image; the projections only say which of both is meant.
    """
    data, planted, lesions = scene

    def reconstructor(sinogram):
        same = torch.equal(sinogram, planted.projections)
        return make((planted if same else data).truth)

    return np.array(contrasts(reconstructor, data, planted, lesions, PROTOCOL))


def test_every_slice_holds_every_kind_if_there_is_room(scene):
    _, _, lesions = scene
    assert len(lesions) == 12
    for index in range(3):
        kinds = [(x.diameter_mm, x.contrast_hu) for x in lesions if x.slice_index == index]
        assert sorted(kinds) == sorted(KINDS)
    first = [x.diameter_mm for x in lesions[::4]]
    assert len(set(first)) > 1  # the kinds take turns at the best place


def test_a_perfect_reconstruction_recovers_all(scene):
    np.testing.assert_allclose(answers(scene, lambda truth: truth), 1.0, atol=1e-4)


def test_a_method_that_erases_lesions_recovers_none(scene):
    data = scene[0]
    np.testing.assert_allclose(answers(scene, lambda _: data.truth), 0.0, atol=1e-4)


def test_a_smoother_image_recovers_less_and_the_least_of_the_small(scene):
    lesions = scene[2]

    def smooth(truth):
        return functional.avg_pool2d(truth, 5, stride=1, padding=2, count_include_pad=False)

    found = answers(scene, smooth)[:, 0]
    small = np.array([x.diameter_mm == 10 for x in lesions])
    assert 0.05 < found[small].mean() < found[~small].mean() - 0.1 < 0.8
