"""Every method's model comes back from its file as it was."""

import pytest
import torch

from fedm2ct.federation.methods import METHODS
from fedm2ct.pipeline.assess import outputs_of
from fedm2ct.pipeline.model_files import load_model, save_model
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_stored_model_reconstructs_the_same(method, tmp_path):
    trainer = METHODS[method](tiny.setup()).trainers["A"]
    source = torch.Generator().manual_seed(5)
    for parameter in trainer.model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source))
    trainer.model.eval()
    save_model(trainer.model, trainer.model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.spec == trainer.model.spec
    assert loaded.declare() == trainer.model.declare()
    sinogram = trainer.task.validation.projections
    before, after = outputs_of(trainer.model), outputs_of(loaded)
    assert before.keys() == after.keys()
    for name, reconstruct in before.items():
        expected, image = reconstruct(sinogram), after[name](sinogram)
        # a trainer lays weights out otherwise, so convolutions add up in another order
        assert (image - expected).abs().max() < 1e-4 * expected.abs().max(), name
