"""Simulated acquisitions that serve several rounds."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fedm2ct.config import TrainingConfig

Acquired = TypeVar("Acquired")


class KeptForRounds(Generic[Acquired]):
    """What was simulated last, for as many rounds as the schedule says.

    What a round uses depends on the round alone, so a resumed run simulates the same again.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.training = training
        self._kept: tuple[int, Acquired] | None = None

    def get(self, round_index: int, simulate: Callable[[int], Acquired]) -> Acquired:
        """Return what `simulate` makes of the round in which this round's are simulated."""
        simulated = self.training.simulated_in(round_index)
        if self._kept is None or self._kept[0] != simulated:
            self._kept = simulated, simulate(simulated)
        return self._kept[1]
