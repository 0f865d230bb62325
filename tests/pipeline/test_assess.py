"""Reconstruction of test slices by several outputs of one model."""

import pytest
import torch

from fedm2ct.federation.methods import METHODS
from fedm2ct.pipeline import assess
from fedm2ct.pipeline.assess import SLICES_AT_ONCE, outputs_of, reconstruct, reconstruct_all
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_outputs_of_a_model_share_its_passes():
    model = METHODS["fedm2ct"](tiny.setup()).trainers["A"].model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=tiny_noise()))
    count = SLICES_AT_ONCE + 3
    sinogram = torch.rand(count, 1, *model.protocol.geometry.shape, generator=tiny_noise())
    alone = {name: reconstruct(r, sinogram) for name, r in outputs_of(model).items()}
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    together = reconstruct_all(outputs_of(model), sinogram)
    assert len(passes) == 2
    assert together.keys() == {"", "private", "shared"} == alone.keys()
    for name, images in together.items():
        assert (images == alone[name]).all()
    assert not (together["private"] == together["shared"]).all()


def tiny_noise():
    return torch.Generator().manual_seed(1)


def test_batches_are_on_the_device_that_computes(monkeypatch):
    monkeypatch.setattr(assess, "compute_device", lambda: torch.device("meta"))
    devices = []

    def reconstructor(sinogram):
        devices.append(sinogram.device.type)
        return torch.zeros(len(sinogram), 1, 2, 2)

    image = reconstruct(reconstructor, torch.ones(SLICES_AT_ONCE + 1, 1, 3, 3))
    assert devices == ["meta", "meta"]
    assert image.shape == (SLICES_AT_ONCE + 1, 2, 2)
