"""A method whose sites send more than the shared parameters: all of it is checked."""

import pytest
import torch

from fedm2ct.federation.method import Upload

from ..federation.toy import SITES, ToyClient, ToyServer, run_toy


class Counting(ToyServer):
    """Wants the number of steps too, which it does not send, and no more than five."""

    def upload_like(self, shared):
        return {**shared, "steps": torch.zeros((), dtype=torch.int64)}

    def aggregate(self, round_index, shared, uploads):
        plain = [Upload(u.site, {n: u.shared[n] for n in shared}, u.samples) for u in uploads]
        self.seen = {u.site: int(u.shared["steps"]) for u in uploads}
        return super().aggregate(round_index, shared, plain)

    def fault(self, upload):
        return "more than five steps" if int(upload.shared["steps"]) > 5 else None


class Telling(ToyClient):
    """Uploads its number of steps beside the parameters."""

    def __init__(self, name, steps):
        super().__init__(name)
        self.steps = steps

    def fit(self, round_index, shared):
        good = super().fit(round_index, shared)
        return Upload(good.site, {**good.shared, **self.steps}, good.samples)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ({}, "steps is missing"),
        ({"steps": torch.tensor(3.0)}, "steps is torch.float32"),
        ({"steps": torch.tensor([3])}, r"steps has shape [1], not []"),
        ({"steps": torch.tensor(6)}, "more than five steps"),
    ],
)
def test_what_else_a_method_s_sites_send_is_checked_as_strictly(tmp_path, steps, reason):
    clients = {site: Telling(site, {"steps": torch.tensor(3)}) for site in SITES}
    clients["B"] = Telling("B", steps)
    server = Counting()
    _, _, events = run_toy(tmp_path, rounds=1, clients=clients, server=server)
    ((site, said),) = [(e["site"], e["reason"]) for e in events if e["event"] == "dropped"]
    assert site == "B" and reason in said
    assert server.seen == {"A": 3, "C": 3}
