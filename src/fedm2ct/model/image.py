"""Image-domain networks and their registry.

A network maps ``(batch, in_channels, row, column)`` to a correction of its first channel and adds
it: with the last layer at zero it starts as the identity. `modulated_channels` lists the width of
every layer that a prompt may modulate; `forward` takes one (gamma, beta) for each.
There is no normalisation layer, hence no buffer that a federation would have to average.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedm2ct.errors import FedM2CTError
from fedm2ct.model.precision import Convolution, ReducedPrecision
from fedm2ct.model.prompt import PromptMLP

Modulation = Sequence[tuple[Tensor, Tensor]]
Built = TypeVar("Built", bound=nn.Module)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Convolution:
    layer = Convolution(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=0.1, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # a Conv2d made above has a bias
    return layer


def _zero(layer: Convolution) -> Convolution:
    nn.init.zeros_(layer.weight)
    return layer


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


class ImageNetwork(ReducedPrecision, ABC):
    """Residual image network that accepts feature modulation."""

    modulated_channels: list[int]

    @property
    @abstractmethod
    def bottleneck(self) -> nn.Module:
        """The module whose output is the network's representation of an image."""

    @property
    @abstractmethod
    def decoder(self) -> list[str]:
        """Names of the modules that come after the bottleneck; `last` is one of them."""

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        """Return the first channel of ``x``, corrected; shape ``(batch, 1, row, column)``."""
        with self.lowered(x.device):
            correction = self.correction(x, list(modulation or ()))
        return x[:, :1] + correction.float()

    @abstractmethod
    def correction(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the correction, shape ``(batch, 1, row, column)``."""


def _modulate(h: Tensor, modulation: list[tuple[Tensor, Tensor]], layer: int) -> Tensor:
    if not modulation:
        return h
    gamma, beta = modulation[layer]
    return (1 + gamma) * h + beta


class UNet(ImageNetwork):
    """U-Net (Ronneberger et al. 2015, doi 10.1007/978-3-319-24574-4_28), two convolutions a level.

    Strided convolutions go down; a 1 x 1 convolution and nearest-neighbour up-sampling go up. Sides
    that are no multiple of ``2**(levels-1)`` are padded by replication and cropped again.
    """

    def __init__(self, in_channels: int = 1, width: int = 16, levels: int = 4) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.multiple = 2 ** (levels - 1)
        self.first = _conv(in_channels, width)
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(_conv(w, w) for w in widths)
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(_conv(2 * w, w) for w in widths[:-1])
        self.last = _zero(_conv(width, 1))
        self.modulated_channels = [*widths, *reversed(widths[:-1])]

    @property
    def bottleneck(self) -> nn.Module:
        """The coarsest level; see `ImageNetwork.bottleneck`."""
        return self.encode[-1]

    @property
    def decoder(self) -> list[str]:
        """The way up; see `ImageNetwork.decoder`."""
        return ["up", "decode", "last"]

    def correction(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the correction; see `ImageNetwork.correction`."""
        rows, columns = x.shape[-2:]
        pad = (-columns % self.multiple, -rows % self.multiple)
        if any(pad):
            x = functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        h = _activate(self.first(x))
        skips: list[Tensor] = []
        for level, encode in enumerate(self.encode):
            if level:
                h = _activate(self.down[level - 1](h))
            h = _activate(_modulate(encode(h), modulation, level))
            skips.append(h)
        for step, level in enumerate(reversed(range(len(self.up)))):
            h = functional.interpolate(self.up[level](h), scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skips[level]], dim=1)
            h = _activate(_modulate(self.decode[level](h), modulation, len(skips) + step))
        out: Tensor = self.last(h)[..., :rows, :columns]
        return out


class REDCNN(ImageNetwork):
    """Residual encoder-decoder (Chen et al. 2017, doi 10.1109/TMI.2017.2715284).

    Five 5 x 5 convolutions down and up with skips; padded, so that small images keep their size.
    """

    def __init__(self, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.encode = nn.ModuleList(
            _conv(in_channels if i == 0 else width, width, kernel=5) for i in range(5)
        )
        self.decode = nn.ModuleList(_conv(width, width, kernel=5) for _ in range(4))
        self.last = _zero(_conv(width, 1, kernel=5))
        self.modulated_channels = [width] * 9

    @property
    def bottleneck(self) -> nn.Module:
        """The encoder's end; see `ImageNetwork.bottleneck`."""
        return self.encode[-1]

    @property
    def decoder(self) -> list[str]:
        """The second half; see `ImageNetwork.decoder`."""
        return ["decode", "last"]

    def correction(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the correction; see `ImageNetwork.correction`."""
        h, skips = x, []
        for i, layer in enumerate(self.encode):
            h = _activate(_modulate(layer(h), modulation, i))
            skips.append(h)
        for i, layer in enumerate(self.decode):
            h = _modulate(layer(h), modulation, 5 + i)
            h = _activate(h + skips[3 - i] if i % 2 == 0 else h)
        out: Tensor = self.last(h)
        return out


class ResNet(ImageNetwork):
    """Residual blocks at full resolution (after He et al. 2016, doi 10.1109/CVPR.2016.90)."""

    def __init__(self, in_channels: int = 1, width: int = 16, blocks: int = 6) -> None:
        super().__init__()
        self.first = _conv(in_channels, width)
        self.inner = nn.ModuleList(_conv(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(_zero(_conv(width, width)) for _ in range(blocks))
        self.last = _zero(_conv(width, 1))
        self.modulated_channels = [width] * blocks

    @property
    def bottleneck(self) -> nn.Module:
        """The block in the middle; see `ImageNetwork.bottleneck`."""
        return self.outer[(len(self.outer) - 1) // 2]

    @property
    def decoder(self) -> list[str]:
        """The blocks after it; see `ImageNetwork.decoder`."""
        later = range((len(self.outer) - 1) // 2 + 1, len(self.outer))
        return [f"{part}.{i}" for part in ("inner", "outer") for i in later] + ["last"]

    def correction(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the correction; see `ImageNetwork.correction`."""
        h = _activate(self.first(x))
        for i, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            h = h + outer(_activate(_modulate(inner(h), modulation, i)))
        out: Tensor = self.last(_activate(h))
        return out


Builder = Callable[[int, int], Built]
"""Builds a network from its input channels and its width."""

IMAGE_NETWORKS: dict[str, Builder[ImageNetwork]] = {
    "unet": UNet,
    "redcnn": REDCNN,
    "resnet": ResNet,
}


def build_image_network(name: str, in_channels: int, width: int) -> ImageNetwork:
    """Build one of `IMAGE_NETWORKS`; see `build_registered`."""
    return build_registered(IMAGE_NETWORKS, name, in_channels, width)


def build_registered(
    networks: Mapping[str, Builder[Built]], name: str, in_channels: int, width: int
) -> Built:
    """Build the network of a name.

    Raises
    ------
    FedM2CTError
        When the name is not registered.
    """
    if name not in networks:
        known = ", ".join(sorted(networks))
        raise FedM2CTError(f"image network {name!r} is not known; choose one of {known}")
    return networks[name](in_channels, width)


class PromptedNetwork(nn.Module):
    """An image network whose features the protocol modulates; at the start it changes nothing."""

    def __init__(self, network: ImageNetwork, features: int) -> None:
        super().__init__()
        self.network = network
        self.prompt = PromptMLP(features, network.modulated_channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Correct ``x``, prompted by ``condition`` of shape ``(batch, features)``."""
        corrected: Tensor = self.network(x, self.prompt(condition))
        return corrected
