"""Prompts: bounded, sensitive to what matters, honest about what is missing."""

import dataclasses
import math
import warnings

import pytest
import torch

from fedm2ct.model.prompt import (
    PromptMLP,
    PromptRangeWarning,
    condition_vector,
    hyperfed_condition,
)
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.protocols import PROTOCOLS, Protocol


@pytest.mark.parametrize("name", PROTOCOLS)
def test_finite_bounded_and_of_one_length(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptRangeWarning)
        vector = condition_vector(PROTOCOLS[name])
    assert vector.shape == condition_vector(PROTOCOLS["demo-sparse"]).shape
    assert torch.isfinite(vector).all()
    assert vector.abs().max() <= 2


def test_the_angular_span_is_seen() -> None:
    base = PROTOCOLS["demo-low-mas"]
    half = dataclasses.replace(
        base,
        geometry=dataclasses.replace(
            base.geometry, angles_rad=equispaced_angles(base.geometry.n_views, math.radians(120))
        ),
    )
    turned = dataclasses.replace(
        half,
        geometry=dataclasses.replace(
            half.geometry,
            angles_rad=equispaced_angles(base.geometry.n_views, math.radians(120), math.pi / 2),
        ),
    )
    vectors = [condition_vector(p) for p in (base, half, turned)]
    assert (vectors[0] - vectors[1]).abs().max() > 0.3
    assert (vectors[1] - vectors[2]).abs().max() > 0.3


def test_a_full_scan_has_no_direction() -> None:
    base = PROTOCOLS["demo-low-mas"]
    turned = dataclasses.replace(
        base,
        geometry=dataclasses.replace(
            base.geometry, angles_rad=equispaced_angles(base.geometry.n_views, 2 * math.pi, 1.0)
        ),
    )
    assert torch.allclose(condition_vector(base), condition_vector(turned), atol=1e-5)


def test_a_missing_voltage_differs_from_a_usual_one() -> None:
    base = PROTOCOLS["demo-low-mas"]
    missing = dataclasses.replace(base, tube_kvp=None)
    known = dataclasses.replace(base, tube_kvp=110.0)
    assert not torch.equal(condition_vector(missing), condition_vector(known))


def test_out_of_range_is_warned_about() -> None:
    odd = dataclasses.replace(PROTOCOLS["demo-low-mas"], photons=1e9)
    with pytest.warns(PromptRangeWarning, match="photons"):
        condition_vector(odd)


def test_the_mlp_starts_at_identity_for_any_condition() -> None:
    mlp = PromptMLP(5, [4, 8])
    for gamma, beta in mlp(torch.randn(3, 5)):
        assert not gamma.any()
        assert not beta.any()


def test_hyperfed_s_condition_of_its_first_test_site() -> None:
    """512 views, 368 bins, 1.33 mm, 2.5716 mm, 595 mm, 490.6 mm, 5e4 photons, by hand."""
    geometry = FanGeometry(equispaced_angles(512), 368, 2.5716, 595.0, 595.0 + 490.6, "flat")
    vector = hyperfed_condition(Protocol("one", geometry, ImageGrid(256, 256, 1.33), 5e4, 0.0))
    expected = [4 / 6, 368 / 1024, 0.93 / 0.9, 2.3216 / 1.3, 445 / 400, 340.6 / 400, 1.19897 / 3]
    assert vector.tolist() == pytest.approx(expected, rel=1e-5)


def test_hyperfed_s_condition_does_not_see_the_span_and_a_parallel_beam_has_no_distances() -> None:
    grid = ImageGrid(64, 64, 5.0)
    vectors = [
        hyperfed_condition(
            Protocol("p", ParallelGeometry(equispaced_angles(90, span), 90, 4.0), grid, 1e5, 0.0)
        )
        for span in (math.pi, math.pi / 2)
    ]
    assert torch.equal(*vectors)
    assert vectors[0][4:6].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("field", "listed"), [("kernel", "sharp"), ("anatomy", "abdomen")])
def test_a_kernel_or_anatomy_that_is_not_known_is_said(field: str, listed: str) -> None:
    base = PROTOCOLS["demo-low-mas"]
    with pytest.warns(PromptRangeWarning, match=f"{field} 'B30f' is not known.*{listed}"):
        unknown = condition_vector(dataclasses.replace(base, **{field: "B30f"}))
    assert torch.equal(unknown, condition_vector(base))
    known = condition_vector(dataclasses.replace(base, **{field: listed}))
    assert not torch.equal(known, unknown)
