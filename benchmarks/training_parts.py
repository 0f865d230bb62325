"""One site's training step, cut into its parts so that their times add up to the step's.

The forward pass is cut where one part hands its result to the next: the next part works on a
detached copy, and the backward pass goes on from that copy's gradient. Nothing is computed twice
and nothing is left out, so the gradients are those of the whole step (a test compares them), and
the clock is read at every cut: what is not in a part is in no other either.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedm2ct.learning.trainer import Loss
from fedm2ct.model.ts_iradonmap import Reconstruction, TSiRadonMAP

PARTS = (
    "sinogram network",
    "back-projection",
    "consistency",
    "shared network",
    "private network",
    "loss",
    "optimiser",
)
CT_PARTS = ("back-projection", "consistency")
"""The parts that are CT operators; the sinogram network filters, but does not project."""


@dataclass
class Clock:
    """Seconds by part and direction, ``(part, "forward" | "backward")``."""

    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str, direction: str = "forward") -> Iterator[None]:
        """Add what the block takes to a part."""
        begin = time.perf_counter()
        yield
        spent = time.perf_counter() - begin
        self.seconds[part, direction] = self.seconds.get((part, direction), 0.0) + spent


@dataclass
class _Cut:
    """A part's result, and the copy that the rest of the step works on."""

    part: str
    whole: Tensor
    copy: Tensor


@dataclass(frozen=True)
class Batch:
    """Sinograms, truth and, where the model needs it, FBP; each ``(batch, 1, ., .)``."""

    sinogram: Tensor
    truth: Tensor
    analytical: Tensor | None


def whole_step(
    model: TSiRadonMAP, loss: Loss, optimiser: torch.optim.Optimizer, batch: Batch, autocast: bool
) -> Tensor:
    """Take a step as `fedm2ct.learning.trainer.SiteTrainer.step` does; return the loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(model(batch.sinogram, batch.analytical), batch.truth)
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    optimiser.step()
    return value.detach()


def step_in_parts(
    model: TSiRadonMAP,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    autocast: bool,
    clock: Clock,
) -> Tensor:
    """Take the same step in parts, each timed; return the loss."""
    cuts: list[_Cut] = []

    def part(name: str, make: Callable[[], Tensor]) -> Tensor:
        with clock.of(name), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            whole = make()
            copy = whole.detach().requires_grad_(whole.requires_grad)
        cuts.append(_Cut(name, whole, copy))
        return copy

    result = _forward_in_parts(model, batch, part)
    with clock.of("loss"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(result, batch.truth)
    with clock.of("optimiser"):
        optimiser.zero_grad(set_to_none=True)
    with clock.of("loss", "backward"):
        value.backward()
    for cut in reversed(cuts):
        if cut.copy.grad is not None:
            with clock.of(cut.part, "backward"):
                cut.whole.backward(cut.copy.grad)
                cut.copy.grad = None
    with clock.of("optimiser"):
        optimiser.step()
    return value.detach()


def _forward_in_parts(
    model: TSiRadonMAP, batch: Batch, part: Callable[[str, Callable[[], Tensor]], Tensor]
) -> Reconstruction:
    """Do what `TSiRadonMAP.forward` does for a model with both networks and a learned x0."""
    sinogram, analytical = batch.sinogram, batch.analytical
    shared_network, private_network = model.shared, model.private
    assert shared_network is not None and private_network is not None
    filtered = part("sinogram network", lambda: model.sinogram(sinogram))
    x0 = part("back-projection", lambda: model.backprojection(filtered))
    plain = x0
    if model.spec.shared_input == "fbp":
        assert analytical is not None
        plain = analytical
    shared = part("shared network", lambda: shared_network(plain, model.condition))
    seen = _private_view(model, x0, shared)
    if model.spec.consistency:
        first = seen[0].detach()
        seen.append(part("consistency", lambda: model.unexplained(sinogram, first)))
    private = part("private network", lambda: private_network(torch.cat(seen, dim=1)))
    return Reconstruction(x0, shared, private, model.private_weight)


def _private_view(model: TSiRadonMAP, x0: Tensor, shared: Tensor) -> list[Tensor]:
    if model.spec.coupling != "cascaded":
        return [x0]
    z = shared.detach()
    return [z, x0] if model.spec.cascade_from == "shared" else [x0, z]
