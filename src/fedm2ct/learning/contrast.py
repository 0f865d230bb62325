"""Contrasts between models: of what they make of an image, and of their parameters."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional

from fedm2ct.model.image import ImageNetwork

Network = TypeVar("Network", bound=nn.Module)


class Representation:
    """What an image network made of the last batch; `of_batch` is ``(batch, channels)``.

    It is the output of the network's bottleneck, averaged over the image.
    """

    def __init__(self) -> None:
        self._features: Tensor | None = None

    def keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Remember an output; the form is that of a forward hook."""
        self._features = output

    @property
    def of_batch(self) -> Tensor:
        """The representations in float32, with their gradients.

        Raises
        ------
        ValueError
            When the network has not been used yet.
        """
        if self._features is None:
            raise ValueError("the image network has not seen a batch yet")
        return self._features.float().mean(dim=(2, 3))


@contextmanager
def represented(network: ImageNetwork) -> Iterator[Representation]:
    """Watch a network's representations for a while."""
    seen = Representation()
    handle = network.bottleneck.register_forward_hook(seen.keep)
    try:
        yield seen
    finally:
        handle.remove()


def frozen_copy(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Return a copy of a network with other parameters, which takes no gradient."""
    copied = copy.deepcopy(network)
    copied.load_state_dict(dict(state))
    return copied.requires_grad_(False).eval()


def model_contrast(own: Tensor, towards: Tensor, away: Tensor, temperature: float) -> Tensor:
    """Return the model-contrastive loss of representations ``(batch, channels)``.

    ``-log(e^(s_+ / tau) / (e^(s_+ / tau) + e^(s_- / tau)))`` with the cosine similarities ``s_+``
    to `towards` and ``s_-`` to `away`, averaged over the batch (Li et al. 2021, arXiv 2103.16257).
    """
    near = functional.cosine_similarity(own, towards, dim=1)
    far = functional.cosine_similarity(own, away, dim=1)
    return functional.softplus((far - near) / temperature).mean()
