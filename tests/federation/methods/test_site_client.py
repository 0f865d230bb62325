"""What a site keeps is stored under a fingerprint that tells models apart."""

import pytest

from fedm2ct.federation.methods import METHODS
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


@pytest.mark.parametrize("method", METHODS)
def test_fingerprint_is_that_of_the_model_and_not_of_its_values(method):
    def client(seed=3, width=2):
        halves = METHODS[method](tiny.setup(seed, model={"width": width}))
        return next(iter(halves.clients.values()))

    fresh = client()
    before = fresh.fingerprint
    fresh.load_private_state(client(seed=4).private_state())
    assert fresh.fingerprint == before == client(seed=4).fingerprint
    if method in ("local", "fedm2ct"):  # the others' private parts have no image network
        assert client(width=3).fingerprint != before


def test_fingerprints_tell_sites_apart():
    clients = METHODS["fedavg"](tiny.setup()).clients
    assert clients["A"].fingerprint != clients["B"].fingerprint
