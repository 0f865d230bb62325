"""FedFDD: the high band travels, the low band stays."""

import pytest
import torch

from fedm2ct.federation.methods import fedfdd
from fedm2ct.physics.analytic import fbp
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_the_high_band_s_network_travels_and_the_low_band_s_stays():
    halves = fedfdd.build(tiny.setup())
    start = halves.server.initial_shared()
    assert {tuple(n.split(".")[:3]) for n in start} == {("shared", "body", "high")}
    client, model = halves.clients["A"], halves.trainers["A"].model
    sent = client.fit(1, start).shared
    assert sent.keys() == start.keys()
    low = {n: t.clone() for n, t in model.shared.body.low.state_dict().items()}
    assert float(low["last.weight"].abs().max()) > 0
    kept = client.private_state()
    assert tiny.same({n: kept[f"model.shared.body.low.{n}"] for n in low}, low)
    client.finish({n: t + 1 for n, t in start.items()})
    assert tiny.same(dict(model.shared.body.low.state_dict()), low)


def test_the_low_band_starts_alike_at_all_sites():
    halves = fedfdd.build(tiny.setup())
    a, b = (t.model.shared.body.low.state_dict() for t in halves.trainers.values())
    assert tiny.same(dict(a), dict(b))


def test_untrained_it_is_fbp():
    trainer = fedfdd.build(tiny.setup()).trainers["A"]
    sinogram = trainer.train_data.sinogram
    with torch.no_grad():
        image = trainer.model(sinogram).final
    expected = fbp(sinogram, trainer.task.protocol.geometry, trainer.task.protocol.grid)
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()
