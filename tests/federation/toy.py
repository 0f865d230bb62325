"""A toy method with everything that makes resuming hard: optimisers, momentum, private weights."""

import torch
from torch import Tensor, nn

from fedm2ct.federation.method import Aggregate, ClientHalf, ServerHalf, State, Upload
from fedm2ct.federation.run import run_method
from fedm2ct.federation.storage import state_fingerprint

CANARY = 1234567.890123  # in every private state; its bytes must never be sent
SITES = ("A", "B", "C")
ROUNDS = 4
SEED = 7
CONFIG = "hash-of-config"


class ToyClient(ClientHalf):
    """Shared body, private head, Adam over both; the noise is drawn from (seed, site, round)."""

    def __init__(self, site: str, seed: int = SEED) -> None:
        self.site = site
        self.seed = seed
        generator = torch.Generator().manual_seed(seed * 1000 + ord(site[0]))
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        for parameter in [*self.body.parameters(), *self.head.parameters()]:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.x = torch.randn(16, 4, generator=generator)
        self.y = torch.randn(16, 1, generator=generator)
        self.parameters = [*self.body.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, lr=0.02)
        self.canary = torch.full((3,), CANARY, dtype=torch.float64)
        self.finished: State | None = None

    def fit(self, round_index: int, shared: State) -> Upload:
        self.body.load_state_dict(shared)
        generator = torch.Generator().manual_seed(self.seed + 17 * round_index + ord(self.site[0]))
        for _ in range(3):
            noisy = self.x + 0.1 * torch.randn(self.x.shape, generator=generator)
            self.optimiser.zero_grad()
            loss = (self.head(torch.tanh(self.body(noisy))) - self.y).square().mean()
            loss.backward()
            self.optimiser.step()
        return Upload(self.site, self.body.state_dict(), 16, {"loss": loss.item()})

    def finish(self, shared: State) -> dict[str, float]:
        self.finished = shared
        return {"final": float(sum(value.double().sum() for value in shared.values()))}

    def private_state(self) -> State:
        state: State = {f"head.{n}": v.clone() for n, v in self.head.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                assert isinstance(value, Tensor)
                state[f"adam.{index}.{name}"] = value.clone()
        return state | {"canary": self.canary.clone()}

    def load_private_state(self, state: State) -> None:
        self.head.load_state_dict({n: state[f"head.{n}"] for n in ("weight", "bias")})
        self.optimiser.state.clear()
        for name, value in state.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                self.optimiser.state[self.parameters[int(index)]][key] = value.clone()
        self.canary = state["canary"].clone()

    @property
    def fingerprint(self) -> str:
        return state_fingerprint(self.private_state())


class ToyServer(ServerHalf):
    """Averages, with momentum: the server keeps a state too."""

    def __init__(self) -> None:
        self.velocity: State = {}

    def initial_shared(self) -> State:
        generator = torch.Generator().manual_seed(99)
        return {
            "weight": torch.randn(4, 4, generator=generator) * 0.3,
            "bias": torch.zeros(4),
        }

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        mean = self.average(uploads)
        for name, value in mean.items():
            step = value - shared[name]
            self.velocity[name] = 0.5 * self.velocity.get(name, torch.zeros_like(step)) + step
        fused = {name: shared[name] + self.velocity[name] for name in shared}
        return Aggregate(fused, {"n_uploads": float(len(uploads))})

    def state(self) -> State:
        return {name: value.clone() for name, value in self.velocity.items()}

    def load_state(self, state: State) -> None:
        self.velocity = {name: value.clone() for name, value in state.items()}


class LocalOnlyServer(ServerHalf):
    """Shares nothing."""

    def initial_shared(self) -> State:
        return {}

    def aggregate(self, round_index: int, shared: State, uploads: list[Upload]) -> Aggregate:
        return Aggregate({}, {})


class LocalOnlyClient(ToyClient):
    """Uploads nothing but its loss."""

    def fit(self, round_index: int, shared: State) -> Upload:
        upload = super().fit(round_index, self.body.state_dict())
        return Upload(self.site, {}, upload.samples, upload.metrics)


def toy_clients(**replaced: ClientHalf) -> dict[str, ClientHalf]:
    clients: dict[str, ClientHalf] = {site: ToyClient(site) for site in reversed(SITES)}
    return clients | replaced


def run_toy(folder, *, resume=False, rounds=ROUNDS, clients=None, server=None, **options):
    """Run the toy method; return its result, its clients and its events."""
    clients = toy_clients() if clients is None else clients
    events: list[dict] = []
    options = {"seed": SEED, "fingerprint": CONFIG, "on_event": events.append} | options
    result = run_method(server or ToyServer(), clients, rounds, folder, resume=resume, **options)
    return result, clients, events


def same_state(a: State, b: State) -> bool:
    """Return whether two states are the same to the bit."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )
