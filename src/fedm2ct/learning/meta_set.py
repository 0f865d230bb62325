"""The server's meta-set: simulated on public scans, or contributed by the sites."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import simulate
from fedm2ct.learning.metamodel import MetaPairs
from fedm2ct.learning.seeds import generator
from fedm2ct.model.prompt import condition_vector
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.protocols import Protocol

PublicSlices = Sequence[tuple[Scan, Sequence[int]]]


def _split(count: int, held_out: float) -> int:
    """Return how many of `count` are for training; at least one is held out and one trained on."""
    return max(1, min(count - 1, round(count * (1 - held_out))))


class SimulatedMetaSet:
    """Every site's acquisition simulated on public scans; the server needs protocols only.

    Training pairs get new noise in every round; the held-out ones stay fixed. The last slices of
    each scan are held out, a contiguous block, so that neighbours are not on both sides.
    """

    def __init__(
        self, public: PublicSlices, protocols: Mapping[str, Protocol], held_out: float, seed: int
    ) -> None:
        self.protocols = {name: protocols[name] for name in sorted(protocols)}
        self.seed = seed
        self.train: list[tuple[Scan, Sequence[int]]] = []
        self.held: list[tuple[Scan, Sequence[int]]] = []
        for scan, slices in public:
            count = _split(len(slices), held_out)
            self.train.append((scan, slices[:count]))
            self.held.append((scan, slices[count:]))

    def training(self, round_index: int) -> list[MetaPairs]:
        """Return pairs with this round's own noise."""
        return self._pairs(self.train, f"round {round_index}")

    def held_out(self) -> list[MetaPairs]:
        """Return the fixed pairs on which alpha is searched."""
        return self._pairs(self.held, "held out")

    def _pairs(self, public: PublicSlices, purpose: str) -> list[MetaPairs]:
        result = []
        for name, protocol in self.protocols.items():
            noise = generator(self.seed, "meta-set", name, purpose)
            data = [simulate(scan, slices, protocol, noise) for scan, slices in public if slices]
            sinogram = torch.cat([d.projections for d in data])
            truth = torch.cat([d.truth for d in data])
            result.append(_reconstructed(protocol, sinogram, truth))
        return result


class ContributedMetaSet:
    """Pairs that sites gave to the server: the paper's way, at the price of patient images."""

    def __init__(
        self, given: Mapping[str, tuple[Protocol, Tensor, Tensor]], held_out: float
    ) -> None:
        self.train: list[MetaPairs] = []
        self.held: list[MetaPairs] = []
        for name in sorted(given):
            protocol, sinogram, truth = given[name]
            pairs = _reconstructed(protocol, sinogram, truth)
            count = _split(len(truth), held_out)
            for target, part in ((self.train, slice(count)), (self.held, slice(count, None))):
                target.append(MetaPairs(pairs.condition, pairs.initial[part], pairs.truth[part]))

    def training(self, round_index: int) -> list[MetaPairs]:
        """Return the contributed pairs; they are the same in every round."""
        return self.train

    def held_out(self) -> list[MetaPairs]:
        """Return the pairs on which alpha is searched."""
        return self.held


def _reconstructed(protocol: Protocol, sinogram: Tensor, truth: Tensor) -> MetaPairs:
    initial = fbp(sinogram, protocol.geometry, protocol.grid)
    return MetaPairs(condition_vector(protocol), initial, truth)
