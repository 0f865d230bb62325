"""Flower's simulation trains what one process trains. It needs Ray: extra ``simulation``."""

import importlib.util

import pytest

from fedm2ct.deployment.simulated import train_simulated
from fedm2ct.pipeline.prepare import read_cohort
from fedm2ct.pipeline.unit import train

from .loopback import Federation
from .test_deployment import METHOD, ROUNDS, assert_same_weights, config_in_one_place, shared_after

pytestmark = [
    pytest.mark.simulation,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    # Ray's processes and sockets are closed by Ray, after the test
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]


def test_a_simulation_trains_what_one_process_trains(patients, tmp_path, one_thread):
    config = config_in_one_place(Federation(tmp_path, patients, proxied=False))
    cohort = read_cohort(config)
    train_simulated(config, cohort, METHOD, 4, tmp_path / "ray")
    train(config, cohort, METHOD, 4, tmp_path / "here", False, lambda _: None)
    for round_index in range(1, ROUNDS + 1):
        found = shared_after(tmp_path / "ray", round_index)
        assert_same_weights(found, shared_after(tmp_path / "here", round_index))
