"""Properties that every linear operator must have."""

import torch
from torch import Tensor

from fedm2ct.physics.operators import LinearOperator

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random(shape, seed, dtype=torch.float64, device="cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def assert_adjoint(operator: LinearOperator, domain, codomain, dtype, device="cpu") -> None:
    """<A x, y> = <x, A* y>, relative to the norms."""
    x = random(domain, 1, dtype, device)
    y = random(codomain, 2, dtype, device)
    ax, aty = operator(x), operator.adjoint(y)
    left = torch.sum(ax.double() * y.double())
    right = torch.sum(x.double() * aty.double())
    scale = ax.double().norm() * y.double().norm()
    assert scale > 0
    assert abs(left - right) <= TOLERANCE[dtype] * scale


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())
