"""What every operator inherits: adjointness, gradients, batches, dtypes, devices, errors."""

import pytest
import torch

from fedm2ct.physics.operators import Projector, WeightedBackprojector
from tests.properties.cases import (
    BACKENDS,
    EVERY_DTYPE,
    EVERY_GEOMETRY,
    EVERY_LAYOUT,
    EVERY_OPERATOR,
    GEOMETRIES,
    GRID,
)
from tests.properties.helpers import TOLERANCE, assert_adjoint, random, relative_error


@EVERY_DTYPE
@EVERY_OPERATOR
def test_adjoint_is_the_transpose(case, dtype):
    assert_adjoint(case.operator, (2, 1, *case.domain), (2, 1, *case.codomain), dtype, case.device)


@EVERY_DTYPE
@EVERY_OPERATOR
def test_batch_equals_loop(case, dtype):
    for apply, shape in (
        (case.operator, case.domain),
        (case.operator.adjoint, case.codomain),
    ):
        x = random((3, 2, *shape), 3, dtype, case.device)
        batch = apply(x)
        for i in range(3):
            for j in range(2):
                single = apply(x[i, j])
                assert single.shape == batch.shape[2:]
                assert relative_error(batch[i, j], single) < TOLERANCE[dtype]


@EVERY_DTYPE
@EVERY_OPERATOR
def test_keeps_dtype_and_device_and_input(case, dtype):
    x = random((2, *case.domain), 4, dtype, case.device)
    before = x.clone()
    result = case.operator(x)
    assert result.dtype == dtype and result.device == x.device
    assert result.shape == (2, *case.codomain)
    back = case.operator.adjoint(result)
    assert back.dtype == dtype and back.device == x.device and back.shape == x.shape
    assert torch.equal(x, before)


@EVERY_OPERATOR
def test_gradient_is_the_adjoint(case):
    x = random((2, *case.domain), 5, device=case.device).requires_grad_()
    y = random((2, *case.codomain), 6, device=case.device)
    (gradient,) = torch.autograd.grad(torch.sum(case.operator(x) * y), x)
    torch.testing.assert_close(gradient, case.operator.adjoint(y))
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.sum(case.operator.H(y) * x.detach()), y)
    torch.testing.assert_close(gradient, case.operator(x.detach()))


@EVERY_OPERATOR
def test_gradcheck_and_gradgradcheck(case):
    x = random((2, *case.domain), 7, device=case.device).requires_grad_()
    slack = 1e-9 if case.device == "cuda" else 0.0  # sums by atomics vary in the last digits
    options = {"fast_mode": True, "nondet_tol": slack}
    assert torch.autograd.gradcheck(case.operator, (x,), **options)
    # of a linear map alone the second derivative is zero; of its square it is not
    assert torch.autograd.gradgradcheck(lambda v: case.operator(v) ** 2, (x,), **options)


@EVERY_OPERATOR
def test_is_linear(case):
    x, y = (random((1, *case.domain), seed, device=case.device) for seed in (8, 9))
    together = case.operator(2.0 * x - 3.0 * y)
    apart = 2.0 * case.operator(x) - 3.0 * case.operator(y)
    assert relative_error(together, apart) < 1e-12


@EVERY_OPERATOR
def test_adjoint_operator_is_an_involution(case):
    assert case.operator.H.H is case.operator


@EVERY_OPERATOR
def test_takes_strided_and_half_precision_input(case):
    x = random((*case.domain, 2), 10, torch.float32, case.device)
    strided = x.movedim(-1, 0)
    expected = case.operator(strided.contiguous())
    torch.testing.assert_close(case.operator(strided), expected)
    low = case.operator(strided.bfloat16())
    assert low.dtype == torch.bfloat16
    assert relative_error(low.float(), expected) < 0.02


@EVERY_OPERATOR
def test_refuses_a_wrong_shape_or_dtype(case):
    larger = (1, case.domain[0] + 1, *case.domain[1:])
    with pytest.raises(ValueError, match=r"expected .* of shape"):
        case.operator(torch.zeros(larger, device=case.device))
    with pytest.raises(ValueError, match="floating dtype"):
        case.operator(torch.zeros(case.domain, dtype=torch.int32, device=case.device))


@EVERY_OPERATOR
def test_a_nan_comes_out_as_a_nan(case):
    x = torch.zeros(case.domain, device=case.device)
    x[tuple(side // 2 for side in case.domain)] = torch.nan
    assert case.operator(x).isnan().any()


class TestLearnableWeights:
    """The weights of the pixel-driven back-projector: fused, and learned."""

    @EVERY_DTYPE
    @EVERY_LAYOUT
    def test_multiply_the_sinogram(self, geometry, grid, dtype):
        for backend in BACKENDS:
            operator = WeightedBackprojector(geometry, grid, backend)
            y, weights = random((2, 1, *geometry.shape), 1, dtype), random(geometry.shape, 2, dtype)
            assert relative_error(operator(y, weights), operator(y * weights)) < TOLERANCE[dtype]

    @EVERY_GEOMETRY
    def test_gradients_of_any_order(self, geometry):
        operator = WeightedBackprojector(geometry, GRID)
        y = random((2, 1, *geometry.shape), 1).requires_grad_()
        weights = random(geometry.shape, 2).requires_grad_()
        assert torch.autograd.gradcheck(operator, (y, weights), fast_mode=True)
        assert torch.autograd.gradgradcheck(
            lambda y, w: operator(y, w) ** 2, (y, weights), fast_mode=True
        )

    @pytest.mark.parametrize("learned", ["sinogram", "weights"])
    def test_only_what_learns_gets_a_gradient(self, learned):
        geometry = GEOMETRIES["fan-flat"]
        y, weights = random(geometry.shape, 1), random(geometry.shape, 2)
        (y if learned == "sinogram" else weights).requires_grad_()
        WeightedBackprojector(geometry, GRID)(y, weights).sum().backward()
        assert (y.grad is not None) == (learned == "sinogram")
        assert (weights.grad is not None) == (learned == "weights")

    def test_nothing_is_saved_but_the_inputs(self):
        geometry = GEOMETRIES["fan-flat"]
        y, weights = (random(geometry.shape, n).requires_grad_() for n in (1, 2))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            Projector(geometry, GRID)(random(GRID.shape, 3).requires_grad_())
            assert not saved  # a linear map needs none
            WeightedBackprojector(geometry, GRID)(y, weights)
        assert {t.data_ptr() for t in saved} == {y.data_ptr(), weights.data_ptr()}

    def test_a_wrong_shape_is_refused(self):
        geometry = GEOMETRIES["fan-flat"]
        with pytest.raises(ValueError, match="weights must have the shape"):
            WeightedBackprojector(geometry, GRID)(torch.ones(geometry.shape), torch.ones(3))


def test_a_footprint_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="footprint must be one of joseph, distance-driven"):
        Projector(GEOMETRIES["parallel"], GRID, footprint="strip")
