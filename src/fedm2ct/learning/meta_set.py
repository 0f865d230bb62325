"""The server's meta-set: simulated on public scans, or contributed by the sites."""

from collections.abc import Mapping, Sequence

from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import PairedData, simulate
from fedm2ct.errors import FedM2CTError
from fedm2ct.learning.seeds import generator
from fedm2ct.physics.protocols import Protocol

PublicScan = tuple[Scan, Sequence[int]]
PublicSlices = Sequence[PublicScan]


def _split(count: int, held_out: float) -> int:
    """Return how many of `count` are for training; at least one is held out and one trained on.

    Raises
    ------
    FedM2CTError
        When there are not two.
    """
    if count < 2:
        raise FedM2CTError(
            "the meta-set has a single slice of a scan or site, but one must be trained on and "
            "another held out; set field 'meta.slices' to 2 or more"
        )
    return max(1, min(count - 1, round(count * (1 - held_out))))


def split_public(
    public: PublicSlices, held_out: float
) -> tuple[list[PublicScan], list[PublicScan]]:
    """Split public scans' slices into those to train on and those held out, the last of each.

    Raises
    ------
    FedM2CTError
        When a scan has a single slice.
    """
    counts = [_split(len(slices), held_out) for _, slices in public]
    train = [(scan, slices[:n]) for (scan, slices), n in zip(public, counts, strict=True)]
    held = [(scan, slices[n:]) for (scan, slices), n in zip(public, counts, strict=True)]
    return train, held


class SimulatedMetaSet:
    """Every site's acquisition simulated on public scans; the server needs protocols only.

    Training pairs get new noise whenever a caller names another round, as of
    `TrainingConfig.simulated_in`; the held-out ones stay fixed. The last slices of each scan are
    held out, a contiguous block without a gap: only those at its border have neighbours that are
    trained on.
    """

    def __init__(
        self, public: PublicSlices, protocols: Mapping[str, Protocol], held_out: float, seed: int
    ) -> None:
        self.protocols = {name: protocols[name] for name in sorted(protocols)}
        self.seed = seed
        self.train, self.held = split_public(public, held_out)

    def training(self, round_index: int) -> dict[str, PairedData]:
        """Return pairs with the noise of the round in which they are simulated."""
        return self._pairs(self.train, f"round {round_index}")

    def held_out(self) -> dict[str, PairedData]:
        """Return the fixed pairs on which alpha is searched."""
        return self._pairs(self.held, "held out")

    def _pairs(self, public: PublicSlices, purpose: str) -> dict[str, PairedData]:
        result = {}
        for name, protocol in self.protocols.items():
            noise = generator(self.seed, "meta-set", name, purpose)
            data = [simulate(scan, slices, protocol, noise) for scan, slices in public if slices]
            result[name] = PairedData.joined(data)
        return result


class ContributedMetaSet:
    """Pairs that sites gave to the server: the paper's way, at the price of patient images.

    Alpha is searched on pairs that the sites have validated on, for an average of networks that
    were trained on the others would look better on them than it is.

    Parameters
    ----------
    trained, validated
        Each site's pairs, by name: what it trains on, and what it does not.
    slices
        How many each site gives, if it has them.
    held_out
        The part of them that are of the latter.
    """

    def __init__(
        self,
        trained: Mapping[str, PairedData],
        validated: Mapping[str, PairedData],
        slices: int,
        held_out: float,
    ) -> None:
        self.train: dict[str, PairedData] = {}
        self.held: dict[str, PairedData] = {}
        for name in sorted(trained):
            count = min(slices, len(trained[name]) + len(validated[name]))
            kept = _split(count, held_out)
            self.train[name] = trained[name][:kept]
            self.held[name] = validated[name][: count - kept]

    def training(self, round_index: int) -> dict[str, PairedData]:
        """Return the contributed pairs; they are the same in every round."""
        return self.train

    def held_out(self) -> dict[str, PairedData]:
        """Return the pairs on which alpha is searched."""
        return self.held
