"""What every operator inherits: adjointness, gradients, batches, dtypes, devices, errors."""

import pytest
import torch

from tests.properties.cases import EVERY_DTYPE, EVERY_OPERATOR
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
    strided = x.permute(2, 0, 1)
    expected = case.operator(strided.contiguous())
    torch.testing.assert_close(case.operator(strided), expected)
    low = case.operator(strided.bfloat16())
    assert low.dtype == torch.bfloat16
    assert relative_error(low.float(), expected) < 0.02


@EVERY_OPERATOR
def test_refuses_a_wrong_shape_or_dtype(case):
    rows, columns = case.domain
    with pytest.raises(ValueError, match=r"expected .* of shape"):
        case.operator(torch.zeros(1, rows + 1, columns, device=case.device))
    with pytest.raises(ValueError, match="floating dtype"):
        case.operator(torch.zeros(1, rows, columns, dtype=torch.int32, device=case.device))


@EVERY_OPERATOR
def test_a_nan_comes_out_as_a_nan(case):
    x = torch.zeros(case.domain, device=case.device)
    x[case.domain[0] // 2, case.domain[1] // 2] = torch.nan
    assert case.operator(x).isnan().any()
