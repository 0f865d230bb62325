"""Convolutions in a shorter number format while training."""

import functools
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

_BFLOAT16_INSTRUCTIONS = (
    "avx512_bf16",
    "amx_bf16",
    "avx10_2",
    "avx_ne_convert",
    "bf16",  # Arm
    "sve_bf16",
)


class ReducedPrecision(nn.Module):
    """A network whose convolutions may be computed in a shorter format while it trains.

    Parameters, gradients and what the convolutions correct stay float32, and so does all of a
    reconstruction. Its convolutions should be `Convolution`.
    """

    training_dtype: torch.dtype = torch.float32
    """What convolutions compute in while training."""

    def lowered(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context to compute the convolutions in."""
        shorter = self.training and self.training_dtype != torch.float32
        return torch.autocast(device.type, self.training_dtype, enabled=shorter)


class Convolution(nn.Conv2d):
    """A convolution that takes no longer in bfloat16 than a CPU needs.

    A CPU without instructions for bfloat16 imitates each of them, which takes some three times as
    long as float32. Here it rounds as those instructions do, what goes in and what comes out, on
    the way back too, and multiplies and adds up in float32, as they do: results differ by the order
    of a sum only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(batch, channel, row, column)``; see `torch.nn.Conv2d`."""
        on_cpu = input.device.type == "cpu"
        if not on_cpu or not torch.is_autocast_enabled("cpu") or _has_bfloat16_instructions():
            return super().forward(input)
        short = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            weight = self.weight.to(short).float()
            bias = None if self.bias is None else self.bias.to(short).float()
            convolved: Tensor = self._conv_forward(input.to(short).float(), weight, bias)
        return convolved.to(short)


@functools.cache
def _has_bfloat16_instructions() -> bool:
    """Whether this CPU has them; where PyTorch cannot tell, it is taken to."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return capabilities is None or any(map(capabilities().get, _BFLOAT16_INSTRUCTIONS))
