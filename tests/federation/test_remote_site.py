"""A site that hears of rounds by message finds its way after any gap."""

import pytest
import torch

from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.remote_site import RemoteSite
from fedm2ct.federation.site import Site, SiteFailureError
from fedm2ct.federation.storage import CheckpointError

from .toy import ToyClient, ToyServer, same_state


def remote(folder, client=None):
    return RemoteSite("A", client or ToyClient("A"), folder, RunIdentity("hash", 7))


def shared(value=0.0):
    return {name: tensor + value for name, tensor in ToyServer().initial_shared().items()}


def fitted(folder, rounds):
    """Return what a site of one process has after some rounds, without any gap."""
    client = ToyClient("A")
    site = Site("A", client, folder, RunIdentity("hash", 7))
    site.begin()
    for round_index in rounds:
        site.fit(round_index, shared(round_index))
    return client.private_state()


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_killed_site_goes_on_from_its_disk(tmp_path, killed_after):
    expected = fitted(tmp_path / "whole", (1, 2, 3))
    site = remote(tmp_path / "own")
    client = site._client
    for round_index in (1, 2, 3):
        if round_index == killed_after + 1:
            client = ToyClient("A")
            site = remote(tmp_path / "own", client)
        site.fit(round_index, shared(round_index))
    assert same_state(client.private_state(), expected)


def test_the_coordinator_goes_back_a_round(tmp_path):
    expected = fitted(tmp_path / "whole", (1, 2, 3))
    client = ToyClient("A")
    site = remote(tmp_path / "own", client)
    for round_index in (1, 2, 2, 3):  # the coordinator was killed before it had stored round 2
        site.fit(round_index, shared(round_index))
    assert same_state(client.private_state(), expected)


def test_a_site_that_missed_rounds_keeps_what_it_had(tmp_path, caplog):
    expected = fitted(tmp_path / "whole", (1, 4))
    client = ToyClient("A")
    site = remote(tmp_path / "own", client)
    site.fit(1, shared(1))
    again = ToyClient("A")
    site = remote(tmp_path / "own", again)
    site.fit(4, shared(4))
    assert same_state(again.private_state(), expected)
    assert "going on from that after round 1" in caplog.text


def test_a_late_site_begins_as_in_round_1(tmp_path):
    client = ToyClient("A")
    before = client.private_state()
    site = remote(tmp_path, client)
    site.finish(3, shared())
    assert same_state(client.private_state(), before)
    assert site.store.files.rounds() == [0, 3]


def test_a_failed_round_changes_nothing_and_the_next_goes_on(tmp_path):
    class Failing(ToyClient):
        def fit(self, round_index, received):
            upload = super().fit(round_index, received)
            if round_index == 2:
                raise ValueError("patient 4711")
            return upload

    expected = fitted(tmp_path / "whole", (1, 3))
    client = Failing("A")
    site = remote(tmp_path / "own", client)
    site.fit(1, shared(1))
    with pytest.raises(SiteFailureError, match=r"^ValueError"):
        site.fit(2, shared(2))
    site.fit(3, shared(3))
    assert same_state(client.private_state(), expected)


def test_a_damaged_file_costs_one_round(tmp_path):
    site = remote(tmp_path)
    for round_index in (1, 2):
        site.fit(round_index, shared(round_index))
    path = site.store.files.path(2)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    client = ToyClient("A")
    remote(tmp_path, client).fit(3, shared(3))
    assert same_state(client.private_state(), fitted(tmp_path / "whole", (1, 3)))


def test_states_of_later_rounds_only_are_not_trained_on(tmp_path):
    site = remote(tmp_path)
    for round_index in (1, 2, 3, 4):
        site.fit(round_index, shared(round_index))
    with pytest.raises(CheckpointError, match="only states of later rounds"):
        remote(tmp_path).fit(1, shared())
    assert torch.equal(site.store.load(4)["canary"], ToyClient("A").canary)
