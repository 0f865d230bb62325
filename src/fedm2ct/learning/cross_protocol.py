"""A site's normal-dose images, acquired anew under the other sites' protocols.

Protocols are metadata: they may travel where images may not. A site that knows them can show the
shared network how its own patients would look in every scanner of the federation, so that the
shared network learns each protocol from the patients of all sites, and none leaves its site. This
is our own design, after FMDL's metamodel (FedM2CT, doi 10.34133/cbsystems.0376), which does the
same with public patients at the server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import simulate
from fedm2ct.learning.losses import Distance
from fedm2ct.learning.seeds import generator
from fedm2ct.model.prompt import CONDITIONS
from fedm2ct.model.start import analytical_input
from fedm2ct.model.ts_iradonmap import ModelSpec, SharedNetwork
from fedm2ct.physics.protocols import Protocol


@dataclass(frozen=True)
class CrossSlices:
    """Slices of a site under other sites' protocols, in relative attenuation.

    Attributes
    ----------
    seen
        What the shared network sees, shape ``(n, 1 or 2, row, column)``.
    truth
        Normal-dose images, shape ``(n, 1, row, column)``.
    conditions
        The protocols' condition vectors, shape ``(n, features)``.
    """

    seen: Tensor
    truth: Tensor
    conditions: Tensor


class CrossProtocol:
    """Simulates other sites' acquisitions of a site's images and takes the loss on them.

    Each slice is given to one of the other protocols, in turn from a random start, with noise of
    its own; so acquisitions of a round cost one simulation of the training set.

    Parameters
    ----------
    site, images
        The site's name, its scans and the training slices of each.
    protocols
        The other sites' protocols.
    spec
        The model whose shared network is trained. Where that sees a learned image it is shown
        plain FBP here: what another site has learned does not leave that site, and FBP is what the
        learned one starts from.
    distance, batch_size, seed, device
        The loss, slices a step, the run's seed, where to compute.

    Raises
    ------
    ValueError
        When there are no images or no protocols.
    """

    def __init__(
        self,
        site: str,
        images: Sequence[tuple[Scan, Sequence[int]]],
        protocols: Sequence[Protocol],
        spec: ModelSpec,
        distance: Distance,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        lengths = [len(indices) for _, indices in images]
        self.images, self.count = images, sum(lengths)
        self.starts = [0, *accumulate(lengths)][: len(lengths)]
        if not self.count or not protocols:
            raise ValueError("cross-protocol training needs images and other sites' protocols")
        self.site, self.spec = site, spec
        self.protocols = protocols
        self.distance, self.batch_size = distance, batch_size
        self.seed, self.device = seed, device

    def acquire(self, round_index: int) -> CrossSlices:
        """Simulate a round's acquisitions."""
        draw = generator(self.seed, self.site, "cross-protocol", round_index)
        order = torch.randperm(self.count, generator=draw).tolist()
        seen, truth, conditions = [], [], []
        for number, protocol in enumerate(self.protocols):
            given = set(order[number :: len(self.protocols)])
            for start, (scan, indices) in zip(self.starts, self.images, strict=True):
                chosen = [index for k, index in enumerate(indices, start) if k in given]
                if chosen:
                    data = simulate(scan, chosen, protocol, draw)
                    measured = data.projections.to(self.device)
                    seen.append(analytical_input(self.spec.start, measured, protocol))
                    truth.append(data.truth)
                    condition = CONDITIONS[self.spec.condition](protocol)
                    conditions.append(condition.expand(len(chosen), -1))
        return CrossSlices(
            torch.cat(seen), torch.cat(truth).to(self.device), torch.cat(conditions).to(self.device)
        )

    def loss(self, slices: CrossSlices, network: SharedNetwork, order: torch.Generator) -> Tensor:
        """Return the shared network's loss on a batch of the round's slices."""
        drawn = torch.randint(len(slices.truth), (self.batch_size,), generator=order)
        chosen = drawn.to(self.device)
        image = network(slices.seen[chosen], slices.conditions[chosen])
        return self.distance(image, slices.truth[chosen])
