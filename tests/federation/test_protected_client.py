"""Noise that no server can guess or subtract, and every release of it counted."""

import pytest
import torch

from fedm2ct.config_protection import PrivacyConfig
from fedm2ct.federation.accounting import slice_epsilon, update_epsilon
from fedm2ct.federation.checkpoint import RunIdentity
from fedm2ct.federation.protected_client import ProtectedClient, Protection
from fedm2ct.federation.remote_site import RemoteSite
from fedm2ct.federation.site import Site
from fedm2ct.federation.storage import CheckpointError
from fedm2ct.learning.seeds import derive_secret, secret_generator
from fedm2ct.learning.slice_privacy import SlicePrivacy

from .toy import ToyClient, ToyServer, same_state

PRIVACY = PrivacyConfig(update_clip=0.1, update_noise=50.0, slice_clip=1.0, slice_noise=2.0)
SECRET = derive_secret(7, "A")


class Stepping(ToyClient):
    """Takes three steps on single slices in each round."""

    privacy: SlicePrivacy

    def fit(self, round_index, shared):
        self.privacy.steps += 3
        return super().fit(round_index, shared)


class Still(Stepping):
    """Sends back what it was sent, whatever that is."""

    def fit(self, round_index, shared):
        upload = super().fit(round_index, {n: t.clone() for n, t in shared.items()})
        return type(upload)(upload.site, shared, upload.samples, upload.metrics)


def client(kind=Stepping, secret=SECRET, privacy=PRIVACY):
    inner = kind("A")
    inner.privacy = SlicePrivacy(1.0, 2.0, secret_generator(secret))
    return ProtectedClient(inner, Protection("none", privacy, "A", 7, secret, inner.privacy, 0.5))


def remote(folder, own):
    return RemoteSite("A", own, folder, RunIdentity("hash", 7))


def shared(value=0.0):
    return {name: tensor + value for name, tensor in ToyServer().initial_shared().items()}


def noise_of(upload, sent):
    """Return what was added to the parameters: nearly noise alone, so much of it there is."""
    return torch.cat([(upload.shared[n] - t).reshape(-1) for n, t in sorted(sent.items())])


def alike(a, b):
    """Return whether two uploads have the same noise, whatever they were trained from."""
    return float((a - b).norm()) < 0.5 * float(a.norm())


def test_a_round_sent_over_again_with_other_parameters_has_noise_of_its_own(tmp_path):
    own = client()
    site, found = remote(tmp_path, own), []
    for value in (0.0, 0.1, 0.0):
        site.fit(1, shared())
        drawn = own.protection.slices.draw
        found.append((noise_of(site.fit(2, shared(value)), shared(value)), drawn))
    (first, _), (other, _), (again, _) = found
    assert not alike(first, other)
    assert torch.equal(first, again)


def test_a_round_over_again_after_another_past_has_noise_of_its_own(tmp_path):
    site, found = remote(tmp_path, client()), []
    for value in (0.0, 0.1):
        site.fit(1, shared(value))
        found.append(noise_of(site.fit(2, shared()), shared()))
    assert not alike(*found)


def test_equal_noise_does_not_tell_that_results_are_equal():
    """An update of zero for either: with the same noise the server would know that it is."""
    found = [noise_of(client(Still).fit(1, shared(v)), shared(v)) for v in (0.0, 0.1)]
    assert not alike(*found)


@pytest.mark.parametrize("other", [{"value": 0.1}, {"round_index": 2}, {"counted": 0}, {"past": 1}])
def test_slices_are_drawn_anew_wherever_anything_differs(other):
    def drawn(value=0.0, round_index=1, counted=None, past=0):
        own = client()
        if past:
            own.fit(1, shared())
        if counted is not None:
            own.heard(counted)
        own.fit(round_index, shared(value))
        return own.protection.slices.draw.standard_normal(3).tolist()

    assert drawn() == drawn()
    assert drawn(**other) != drawn()


def test_releases_are_counted_over_rounds_gone_back_to_and_restarts(tmp_path):
    pytest.importorskip("dp_accounting")
    site = remote(tmp_path, client())
    for number in (1, 2, 2):
        site.fit(number, shared(number))
    site = remote(tmp_path, client())
    upload = site.fit(2, shared(0.5))
    assert upload.metrics == {
        "epsilon_update": update_epsilon(50.0, 4, 1e-5),
        "epsilon_slice": slice_epsilon(2.0, 0.5, 12, 1e-5),
    }
    assert (tmp_path / "spent.json").read_text() == '{"updates": 4, "steps": 12}'


@pytest.mark.parametrize("damage", [None, "", "{}", '{"updates": -1}', "[]"])
def test_a_count_that_is_gone_is_not_begun_anew(tmp_path, damage):
    remote(tmp_path, client()).fit(1, shared())
    path = tmp_path / "spent.json"
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    with pytest.raises(CheckpointError, match=r"spent\.json is missing or damaged.*backup"):
        remote(tmp_path, client()).fit(2, shared())


def test_without_noise_nothing_is_counted(tmp_path):
    clips = PrivacyConfig(update_clip=0.1, slice_clip=1.0)
    own = client(privacy=clips)
    upload = remote(tmp_path, own).fit(1, shared())
    assert "loss" in upload.metrics and not (tmp_path / "spent.json").exists()
    assert not any("secret" in name or "history" in name for name in own.private_state())


def test_the_secret_is_kept_with_the_private_state_and_one_of_32_bits_is_refused(tmp_path):
    own = client()
    site = Site("A", own, tmp_path, RunIdentity("hash", 7))
    site.begin()
    other = client(secret=bytes(32))
    other.load_private_state(own.private_state())
    assert other.protection.secret == SECRET and len(SECRET) >= 16
    assert same_state(other.fit(1, shared()).shared, own.fit(1, shared()).shared)
    old = {**own.private_state(), "protection.secret": torch.tensor(2**62)}
    site.store.save(1, old)
    with pytest.raises(CheckpointError, match=r"private-0001.*32 bits.*another output folder"):
        site.restore(1)
