"""Convolutions in a shorter number format while training."""

from contextlib import AbstractContextManager

import torch
from torch import nn


class ReducedPrecision(nn.Module):
    """A network whose convolutions may be computed in a shorter format while it trains.

    Parameters, gradients and what the convolutions correct stay float32, and so does all of a
    reconstruction.
    """

    training_dtype: torch.dtype = torch.float32
    """What convolutions compute in while training."""

    def lowered(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context to compute the convolutions in."""
        shorter = self.training and self.training_dtype != torch.float32
        return torch.autocast(device.type, self.training_dtype, enabled=shorter)
