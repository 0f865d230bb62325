"""TS-iRadonMAP: one site's reconstruction, and which of its numbers may leave the site.

    sinogram --F--> filtered --B--> x0 --+--> S(.; protocol) = z   shared, prompted
                                         +--> P(.) = x             private

F and B are the sinogram network and the learnable back-projection (private, bound to the site's
geometry); P is the private image network; S the shared one, the only part that is exchanged
(FedM2CT, doi 10.34133/cbsystems.0376). How P and S are coupled is our own design: ``side-by-side``
feeds both with x0, ``cascaded`` lets P also see z. Both may correct an iterative reconstruction
instead and see x0 beside it (`ModelSpec.start`).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedm2ct.model.backprojection import LearnableBackprojection
from fedm2ct.model.frequency import PRIVATE_NETWORKS, FrequencyNetwork
from fedm2ct.model.image import (
    ImageNetwork,
    PromptedNetwork,
    build_image_network,
    build_registered,
)
from fedm2ct.model.prompt import CONDITIONS
from fedm2ct.model.sinogram import SinogramNetwork
from fedm2ct.model.start import Start, analytical_input
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM

Coupling = Literal["side-by-side", "cascaded"]
Ownership = Literal["shared", "private"]
Kept = Literal["nothing", "head", "decoder", "prompt", "low"]
SHARED_PREFIX = "shared."


@dataclass(frozen=True)
class ModelSpec:
    """Which networks a TS-iRadonMAP is made of.

    Attributes
    ----------
    private, shared
        Registered image networks (`PRIVATE_NETWORKS`, `IMAGE_NETWORKS`); None leaves one out.
    width
        Channels at the finest level of both networks.
    prompted
        Whether the protocol modulates the shared network.
    coupling
        ``side-by-side`` or ``cascaded`` (the private network also sees the shared one's output).
    learn_projection
        Whether F and B are learned; otherwise they stay analytical, that is, FBP.
    cascade_from
        Which image the cascaded private network corrects; it sees the other one beside it.
    shared_input
        What the shared network corrects: the site's learned x0, or plain FBP, which looks the
        same at every site of a protocol, and at the server.
    kept
        Which part of the shared network stays at the site: its ``head`` (the last layer), its
        ``decoder`` (all after the bottleneck), or its ``prompt``. With ``low`` the image is split
        by frequency, each band has a network, and the low band's stays.
    condition
        What the prompt is told of the protocol: see `fedm2ct.model.prompt.CONDITIONS`.
    start
        The image that the networks correct: FBP, learned or not, or an iterative reconstruction,
        beside which they see FBP, learned or not.
    output
        What the site's reconstruction is where there are two networks: both, ``weighted`` on
        validation slices, or the ``private`` one's image alone.
    private_sees_fbp
        Whether the private network sees FBP, learned or not, beside an iterative start.
    consistency
        Whether the private network also sees the FBP of what the image that it corrects leaves
        unexplained of the measurement: the shared one's output where it is cascaded from that, else
        the image that both start from.
    """

    private: str | None = "unet"
    shared: str | None = "unet"
    width: int = 16
    prompted: bool = True
    coupling: Coupling = "cascaded"
    learn_projection: bool = True
    cascade_from: Literal["shared", "initial"] = "shared"
    shared_input: Literal["fbp", "learned"] = "learned"
    consistency: bool = False
    kept: Kept = "nothing"
    output: Literal["weighted", "private"] = "weighted"
    condition: Literal["protocol", "hyperfed"] = "protocol"
    start: Start = "fbp"
    private_sees_fbp: bool = True


@dataclass(frozen=True)
class Reconstruction:
    """What a TS-iRadonMAP makes of a sinogram; images ``(batch, 1, row, column)``, air 0, water 1.

    `private` and `shared` are None where the model has no such network. `seen` is what the shared
    one was given, ``(batch, 1 or 2, row, column)``.
    """

    initial: Tensor
    shared: Tensor | None
    private: Tensor | None
    weight: Tensor
    seen: Tensor | None = None

    @property
    def final(self) -> Tensor:
        """The site's reconstruction: private and shared weighted, or the only one there is."""
        if self.private is None:
            return self.initial if self.shared is None else self.shared
        if self.shared is None:
            return self.private
        return self.weight * self.private + (1 - self.weight) * self.shared


class SharedNetwork(nn.Module):
    """The part that travels: an image network, prompted or not. No buffers, no geometry."""

    def __init__(
        self,
        name: str,
        width: int,
        features: int | None,
        kept: Kept = "nothing",
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self._only_first = kept == "low"
        self.body: nn.Module
        if kept == "low":
            assert features is None, "the networks of frequency bands take no prompt"
            self.body = FrequencyNetwork(name, width)
            parts = ["low"]
        else:
            network = build_image_network(name, in_channels, width)
            self.body = network if features is None else PromptedNetwork(network, features)
            within = "" if features is None else "network."
            later = {"nothing": [], "head": ["last"], "decoder": network.decoder, "prompt": []}
            parts = ["prompt"] if kept == "prompt" else [within + part for part in later[kept]]
        self._kept = tuple(f"body.{part}." for part in parts)

    def keeps(self, name: str) -> bool:
        """Return whether a parameter stays at the site although the network is shared."""
        return name.startswith(self._kept)

    @property
    def network(self) -> ImageNetwork:
        """The image network itself, without its prompt."""
        inner = self.body.network if isinstance(self.body, PromptedNetwork) else self.body
        assert isinstance(inner, ImageNetwork)
        return inner

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Correct an image under a protocol's condition vector ``(features,)``.

        The image is the first channel; others are seen beside it.
        """
        if isinstance(self.body, PromptedNetwork):
            corrected: Tensor = self.body(image, condition.expand(len(image), -1))
            return corrected
        plain: Tensor = self.body(image[:, :1] if self._only_first else image)
        return plain


def shared_inputs(spec: ModelSpec) -> int:
    """Return how many channels the shared network sees."""
    return 1 if spec.start == "fbp" else 2


class TSiRadonMAP(nn.Module):
    """Two-stage iRadonMAP of one protocol; untrained it equals FBP."""

    condition: Tensor
    private_weight: Tensor

    def __init__(self, protocol: Protocol, spec: ModelSpec) -> None:
        super().__init__()
        self.protocol, self.spec = protocol, spec
        condition = CONDITIONS[spec.condition](protocol)
        self.register_buffer("condition", condition, persistent=False)
        weight = 1.0 if spec.output == "private" else 0.5
        self.register_buffer("private_weight", torch.tensor(weight))
        self.sinogram = SinogramNetwork(protocol.geometry)
        self.backprojection = LearnableBackprojection(protocol.geometry, protocol.grid)
        if not self._learns_projection:
            for part in (self.sinogram, self.backprojection):
                part.requires_grad_(False)
        self.shared = None
        if spec.shared is not None:
            features = len(condition) if spec.prompted else None
            self.shared = SharedNetwork(
                spec.shared, spec.width, features, spec.kept, shared_inputs(spec)
            )
        self.private = None
        if spec.private is not None:
            self.private = build_registered(
                PRIVATE_NETWORKS, spec.private, self._private_inputs(), spec.width
            )
        self.projector = Projector(protocol.geometry, protocol.grid) if spec.consistency else None

    @property
    def _cascaded(self) -> bool:
        return self.spec.shared is not None and self.spec.coupling == "cascaded"

    def _private_inputs(self) -> int:
        return 1 + self._cascaded + self._private_sees_fbp + self.spec.consistency

    @property
    def _iterative(self) -> bool:
        return self.spec.start != "fbp"

    @property
    def _private_sees_fbp(self) -> bool:
        """Whether the private network sees FBP beside another image that it corrects."""
        return self._iterative and self.spec.private_sees_fbp

    @property
    def _learns_projection(self) -> bool:
        """Whether F and B are learned; where no network sees their image they cannot be."""
        spec = self.spec
        private = spec.private is not None and (not self._iterative or spec.private_sees_fbp)
        shared = spec.shared is not None and spec.shared_input == "learned"
        alone = spec.private is None and spec.shared is None
        return spec.learn_projection and (private or shared or alone)

    def analytical(self, sinogram: Tensor, keep: bool = True) -> Tensor:
        """Return what is not learned: FBP, and before it the iterative image if there is one."""
        return analytical_input(self.spec.start, sinogram, self.protocol, keep)

    @property
    def needs_analytical(self) -> bool:
        """Whether FBP itself is part of the reconstruction."""
        return (
            self._iterative
            or not self._learns_projection
            or (self.shared is not None and self.spec.shared_input == "fbp")
        )

    def unexplained(self, sinogram: Tensor, image: Tensor) -> Tensor:
        """Return the FBP of the measurement less the image's projection."""
        assert self.projector is not None
        left = sinogram - self.projector(image) * MU_WATER_PER_MM
        return fbp(left, self.protocol.geometry, self.protocol.grid)

    def forward(self, sinogram: Tensor, analytical: Tensor | None = None) -> Reconstruction:
        """Reconstruct line integrals ``(batch, 1, view, bin)``.

        `analytical` hands in the sinogram's FBP where it is known already.
        """
        if analytical is None and self.needs_analytical:
            # What a loss makes up in training is seen once: kept, it would only fill the disk.
            analytical = self.analytical(sinogram, keep=not self.training)
        if self._learns_projection:
            x0: Tensor = self.backprojection(self.sinogram(sinogram))
        else:
            assert analytical is not None
            x0 = analytical[:, -1:]
        start = x0
        shared = seen = None
        if self._iterative:
            assert analytical is not None
            start = analytical[:, :1]
        if self.shared is not None:
            plain = x0
            if self.spec.shared_input == "fbp":
                assert analytical is not None
                plain = analytical[:, -1:]
            seen = torch.cat([start, plain], 1) if self._iterative else plain
            shared = self.shared(seen, self.condition)
        private = None
        if self.private is not None:
            private = self.private(self._private_view(sinogram, start, x0, shared))
        return Reconstruction(start, shared, private, self.private_weight, seen)

    def _private_view(
        self, sinogram: Tensor, start: Tensor, x0: Tensor, shared: Tensor | None
    ) -> Tensor:
        """Stack what the private network sees; no gradient flows from it into the shared one."""
        views = [start]
        if shared is not None and self._cascaded:
            z = shared.detach()
            views = [z, start] if self.spec.cascade_from == "shared" else [start, z]
        if self._private_sees_fbp:
            views.append(x0)
        if self.spec.consistency:
            views.append(self.unexplained(sinogram, views[0].detach()))
        return torch.cat(views, dim=1)

    def declare(self) -> dict[str, Ownership]:
        """Say for every parameter and every buffer of the state whether it is shared or private."""
        return {name: self._owner(name) for name in self.state_dict()}

    def _owner(self, name: str) -> Ownership:
        if self.shared is None or not name.startswith(SHARED_PREFIX):
            return "private"
        return "private" if self.shared.keeps(name.removeprefix(SHARED_PREFIX)) else "shared"

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """Return the shared parameters themselves, where they are."""
        declared = self.declare()
        return {n: p for n, p in self.named_parameters() if declared[n] == "shared"}

    def shared_state(self) -> dict[str, Tensor]:
        """Return copies of the shared parameters, on the CPU."""
        return self._state("shared")

    def private_state(self) -> dict[str, Tensor]:
        """Return copies of the private parameters and buffers, on the CPU."""
        return self._state("private")

    def _state(self, owner: Ownership) -> dict[str, Tensor]:
        declared = self.declare()
        state = self.state_dict()
        return {n: t.detach().cpu().clone() for n, t in state.items() if declared[n] == owner}

    def load_shared(self, state: dict[str, Tensor]) -> None:
        """Take over downloaded shared parameters.

        Raises
        ------
        ValueError
            When the names are not exactly those that this model declares as shared.
        """
        expected = set(self.shared_state())
        if set(state) != expected:
            odd = sorted(set(state) ^ expected)
            raise ValueError(f"shared parameters do not match the model's: {', '.join(odd[:5])}")
        self.load_state_dict(state, strict=False)
