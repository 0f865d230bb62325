"""A site's slices on the device that computes with them."""

import torch
from torch import Tensor

from fedm2ct.data.simulate import Measurements, PairedData
from fedm2ct.model.ts_iradonmap import TSiRadonMAP


class Slices:
    """A site's slices on its device; FBP is computed once where the model needs it.

    Unless they are not to be `prepared`, for the model is never shown them as they are.
    """

    def __init__(
        self,
        data: Measurements,
        model: TSiRadonMAP,
        device: torch.device,
        prepared: bool = True,
    ) -> None:
        self.sinogram = data.projections.to(device)
        self._truth = data.truth.to(device) if isinstance(data, PairedData) else None
        self.analytical: Tensor | None = None
        if prepared and model.needs_analytical:
            with torch.no_grad():
                self.analytical = model.analytical(self.sinogram)

    def __len__(self) -> int:
        return len(self.sinogram)

    @property
    def truth(self) -> Tensor:
        """The normal-dose images.

        Raises
        ------
        ValueError
            When the slices have none.
        """
        if self._truth is None:
            raise ValueError("these slices have no normal-dose image")
        return self._truth

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the chosen slices' sinograms, truth and, where the model needs it, FBP."""
        sinogram, analytical = self.measured(chosen)
        return sinogram, self.truth[chosen.to(self.truth.device)], analytical

    def measured(self, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the chosen slices' sinograms and, where the model needs it, FBP."""
        chosen = chosen.to(self.sinogram.device)
        return self.sinogram[chosen], None if self.analytical is None else self.analytical[chosen]


def paired(data: Measurements) -> PairedData:
    """Return pairs as what they are.

    Raises
    ------
    ValueError
        When there is no truth with them.
    """
    if not isinstance(data, PairedData):
        raise ValueError("these slices have no normal-dose image")
    return data
