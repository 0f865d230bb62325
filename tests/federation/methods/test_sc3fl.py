"""3SC-FL: the next global model is the average, trained on at the server, whole."""

import pytest

from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.method import weighted_average
from fedm2ct.federation.methods import fedper, sc3fl
from fedm2ct.federation.methods.setup import with_prefix, without_prefix
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


def test_what_is_sent_down_is_what_the_server_has_trained():
    halves, again = sc3fl.build(tiny.setup()), sc3fl.build(tiny.setup())
    start = halves.server.initial_shared()
    uploads = [halves.clients[name].fit(1, start) for name in ("A", "B")]
    fused = halves.server.aggregate(1, start, uploads)
    averaged = weighted_average(uploads)
    trained = again.server.metamodel.train(without_prefix(averaged), 1)
    assert tiny.same(fused.shared, with_prefix(trained))
    assert not tiny.same(fused.shared, averaged)


def test_its_sites_are_fedper_s():
    sent = []
    for build in (sc3fl.build, fedper.build):
        halves = build(tiny.setup())
        sent.append(halves.clients["A"].fit(1, halves.server.initial_shared()).shared)
    assert tiny.same(*sent)


@pytest.mark.parametrize("changes", [{"meta": {"source": "none"}}, {"fedm2ct": {"meta_steps": 0}}])
def test_without_pairs_at_the_server_it_refuses(changes):
    with pytest.raises(FedM2CTError, match=r"meta\.source"):
        sc3fl.build(tiny.setup(**changes)).server.initial_shared()
