"""What docs/rivals.md says of every method's traffic is what its halves would send."""

import re
from pathlib import Path

import pytest

from fedm2ct.config import ModelConfig
from fedm2ct.federation.methods import METHODS
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")
PAGE = Path(__file__).parents[3] / "docs" / "rivals.md"


def n_bytes(state):
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def traffic(method):
    """Return the bytes that a site receives and sends in a round, with the default networks."""
    setup = tiny.setup(model=ModelConfig().model_dump())
    server = METHODS[method](setup).server
    down = server.initial_shared()
    return n_bytes(down) + n_bytes(server.upload_like(down))


@pytest.fixture(scope="module")
def fedavg():
    return traffic("fedavg")


def documented():
    """Return every method's last column of the table."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    said = {}
    for row in rows:
        first, *_, last = [cell.strip() for cell in row.strip("|").split("|")]
        said.update(dict.fromkeys(re.findall(r"`(\w+)`", first), last))
    return said


def test_every_method_has_a_row():
    assert set(documented()) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_traffic_is_as_documented(method, fedavg):
    assert f"{traffic(method) / fedavg:.2f}" == documented()[method]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_sent_is_what_was_declared(method):
    halves = METHODS[method](tiny.setup())
    down = halves.server.initial_shared()
    declared = halves.server.upload_like(down)
    sent = next(iter(halves.clients.values())).fit(1, down).shared
    assert {n: (t.shape, t.dtype) for n, t in sent.items()} == {
        n: (t.shape, t.dtype) for n, t in declared.items()
    }
