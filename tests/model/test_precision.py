"""Convolutions in bfloat16 on CPUs with instructions for it and on those without."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode

from fedm2ct.model import precision
from fedm2ct.model.image import IMAGE_NETWORKS, build_image_network
from fedm2ct.model.precision import Convolution


class Convolved(TorchDispatchMode):
    """Notes what format convolutions compute in, there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            self.dtypes |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[True, False], ids=["with-instructions", "without"])
def instructions(request, monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16_instructions", lambda: request.param)
    return request.param


@pytest.mark.parametrize("name", sorted(IMAGE_NETWORKS))
def test_networks_compute_in_what_the_cpu_has_instructions_for(name, instructions) -> None:
    network = build_image_network(name, 1, 4)
    network.training_dtype = torch.bfloat16
    with Convolved() as convolved:
        network(torch.rand(2, 1, 16, 16)).sum().backward()
    assert convolved.dtypes == {torch.bfloat16 if instructions else torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


def test_rounds_what_goes_in_and_comes_out_there_and_back(instructions) -> None:
    """Against float64; one digit of bfloat16 for a sum in another order."""

    def rounded(x):
        return x.bfloat16().double()

    torch.manual_seed(0)
    layer, image = Convolution(3, 4, 3, padding=1), torch.randn(2, 3, 12, 12, requires_grad=True)
    upstream = torch.randn(2, 4, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(image)
    assert result.dtype == torch.bfloat16
    result.backward(upstream.bfloat16())
    x, w, b = (rounded(t.detach()).requires_grad_() for t in (image, layer.weight, layer.bias))
    exact = conv2d(x, w, b, padding=1)
    exact.backward(rounded(upstream))
    for ours, theirs in (
        (result, exact),
        (image.grad, x.grad),
        (layer.weight.grad, w.grad),
        (layer.bias.grad, b.grad),
    ):
        torch.testing.assert_close(ours.double(), rounded(theirs), rtol=2**-7, atol=1e-6)
        assert torch.equal(ours.double(), rounded(ours))


def test_without_autocast_nothing_is_rounded(instructions) -> None:
    torch.manual_seed(0)
    layer, image = Convolution(1, 2, 3), torch.randn(1, 1, 8, 8)
    assert torch.equal(layer(image), conv2d(image, layer.weight, layer.bias))


def test_cpu_is_taken_to_have_them_where_torch_cannot_tell(monkeypatch) -> None:
    asked = precision._has_bfloat16_instructions.__wrapped__
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert asked()
    for found, expected in (({"avx2": True, "avx512_bf16": False}, False), ({"bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=found: c, raising=False)
        assert asked() is expected
