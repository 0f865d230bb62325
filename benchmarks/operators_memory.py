"""How much memory a forward and a backward pass through one of our operators take."""

from collections.abc import Callable
from typing import Any

import torch
from operators_cases import SETUPS, Setup
from peak_memory import PeakMemory
from torch import Tensor, nn

from fedm2ct.physics.operators import Projector, WeightedBackprojector

ALLOWANCE = 1.2
"""The project's goal: peak over the tensors that any implementation has to hold."""
OPERATORS = ("projector", "backprojector")
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "NUMPY_MADVISE_HUGEPAGE": "0"}
"""What the process needs so that its growth is that of its arrays.

By default the C allocator keeps blocks of a size that was freed before, and NumPy asks for pages of
2 MB: some MB more or less from run to run.
"""


def autograd_memory(setup: Setup, operator: str, batch: int) -> dict[str, Any]:
    """Measure one forward and backward pass in a fresh process, all gradients wanted.

    The back-projector has learnable weights. Its own tables are made before and counted apart.

    Parameters
    ----------
    setup
        Geometry and grid.
    operator
        One of `OPERATORS`.
    batch
        Images in the batch.

    Returns
    -------
    dict
        ``tables_mb``, what making the operator leaves in memory; ``needed_mb``, the size of input
        (and weights), output, and the gradients of both; ``peak_mb``, how much memory grew at most
        from before the input was made to after the backward pass; ``ratio`` of the last two.
    """
    tiny, inputs = _operator(SETUPS["tiny"], operator)
    _both_ways(tiny, inputs(batch))  # loads code: autograd's, numba's, the kernels
    with PeakMemory() as tables:
        apply, inputs = _operator(setup, operator)
        _both_ways(apply, inputs(1))
    with PeakMemory() as whole:
        needed = _both_ways(apply, inputs(batch))
    ratio = None if whole.peak_mb is None else whole.peak_mb / needed
    return {
        "tables_mb": tables.kept_mb,
        "needed_mb": needed,
        "peak_mb": whole.peak_mb,
        "ratio": ratio,
        "goal": ALLOWANCE,
    }


def _both_ways(apply: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Go forward and backward; return the size in MB of what has to be in memory at the end."""
    given = [x.requires_grad_() for x in inputs]
    out = apply(*given)
    grad = torch.ones_like(out)
    out.backward(grad)
    alive = [*given, out, grad, *(x.grad for x in given if x.grad is not None)]
    return sum(x.numel() * x.element_size() for x in alive) / 1e6


def _operator(
    setup: Setup, operator: str
) -> tuple[Callable[..., Tensor], Callable[[int], list[Tensor]]]:
    """Return the operator and what makes its inputs for a batch."""
    geometry, grid = setup.geometry, setup.grid
    if operator == "projector":
        return Projector(geometry, grid), lambda batch: [torch.ones(batch, 1, *grid.shape)]
    return WeightedBackprojector(geometry, grid), lambda batch: [
        torch.ones(batch, 1, *geometry.shape),
        nn.Parameter(torch.ones(geometry.shape)),
    ]
