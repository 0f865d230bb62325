"""Clipping and Gaussian noise on what a site sends, at the site.

    u  <-  u min(1, C / |u|)  +  N(0, z^2 C^2 I)

with u the whole update of a round, all tensors together (McMahan et al. 2018, arXiv 1710.06963,
where the server adds the noise to the sum; here the server is not trusted with the update itself).
"""

import math

import torch

from fedm2ct.federation.method import State
from fedm2ct.learning.seeds import Draw, normal


def update_length(update: State) -> float:
    """Return the Euclidean length of an update's real tensors, in float64."""
    squares = [float(t.double().square().sum()) for t in update.values() if t.is_floating_point()]
    return math.sqrt(math.fsum(squares))


def clip_and_noise(update: State, clip: float, noise: float, draw: Draw) -> State:
    """Return an update, clipped and noised; whole numbers stay as they are.

    Parameters
    ----------
    update
        Tensors by name.
    clip
        Longest update, C.
    noise
        Standard deviation of the noise in units of `clip`, z; 0 clips only.
    draw
        What the noise is drawn from.
    """
    length = update_length(update)
    factor = 1.0 if length <= clip else clip / length
    result: State = {}
    for name, tensor in sorted(update.items()):
        if tensor.is_floating_point():
            deviate = normal(draw, tensor.shape, torch.float64)
            tensor = (tensor.double() * factor + deviate * (clip * noise)).to(tensor.dtype)
        result[name] = tensor
    return result
