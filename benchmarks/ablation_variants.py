"""The variants of the ablation: FedM2CT with one thing changed, and the rivals beside it."""

from dataclasses import dataclass, field
from typing import Any

from fedm2ct.config import FedM2CTConfig, RunConfig, TrainingConfig, parse_config

Changes = dict[str, dict[str, Any]]
FULL = "full"
TWO_WAY_LAMBDA = 0.3
RAMP_ROUNDS = 4
LONGER = 3
BUSY = 5
_LONG = f"{LONGER} times as many rounds"
_BUSY = f"the server trains {BUSY} times as long"


@dataclass(frozen=True)
class Variant:
    """A method and what is changed for it, by table of the configuration."""

    title: str
    method: str = "fedm2ct"
    changes: Changes = field(default_factory=dict)

    def config(self, base: RunConfig) -> RunConfig:
        """Return the variant's own, checked configuration; its only method is the variant's."""
        data = base.model_dump(mode="json")
        for table, fields in self.changes.items():
            data[table].update(fields)
        return parse_config({**data, "methods": [self.method]}, f"variant {self.title!r}")


def variants(base: RunConfig) -> dict[str, Variant]:
    """Return the variants by name, the full method first.

    Each changes one thing of the configuration that is given, so a switch that has two positions
    appears in the one that the full method does not use. What would change nothing is left out.
    """
    ours = {**_parts(base), **_mutual(base.fedm2ct), **_meta(base), **_wiring(base)}
    whole = Variant("FedM2CT").config(base)
    kept = {name: v for name, v in ours.items() if v.config(base) != whole}
    return {FULL: Variant("FedM2CT"), **kept, **_rivals(base)}


def _own(title: str, **fields: Any) -> Variant:
    return Variant(title, changes={"fedm2ct": fields})


def _parts(base: RunConfig) -> dict[str, Variant]:
    """Leave a part out."""
    analytical: Changes = {"model": {"learn_projection": False}}
    other = not base.model.consistency
    return {
        **_private(base),
        **{
            f"start-{start}": Variant(
                f"networks that correct {image}", changes={"model": {"start": start}}
            )
            for start, image in _STARTS.items()
        },
        "no-exchange": _own("no exchange: two networks, no federation", exchange=False),
        "no-exchange-long": Variant(
            f"no exchange, {_LONG}", changes={"fedm2ct": {"exchange": False}, **_longer(base)}
        ),
        "analytical": Variant(
            "FBP for the learned sinogram and back-projection", changes=analytical
        ),
        "no-prompt": _own("no prompt", prompted=False),
        "no-cross-protocol" if base.fedm2ct.cross_protocol else "cross-protocol": _own(
            "sites do not train under each other's protocols"
            if base.fedm2ct.cross_protocol
            else "sites also train the shared network under each other's protocols",
            cross_protocol=0.0 if base.fedm2ct.cross_protocol else 1.0,
        ),
        "simulate-every-round": Variant(
            "new simulations in every round", changes={"training": {"simulate_every": 1}}
        ),
        "long": Variant(_LONG, changes=_longer(base)),
        "consistency" if other else "no-consistency": Variant(
            "the private network also sees what the measurement leaves unexplained"
            if other
            else "without the unexplained part of the measurement",
            changes={"model": {"consistency": other}},
        ),
    }


def for_rounds(training: TrainingConfig, rounds: int) -> dict[str, int]:
    """Change the rounds; what is simulated serves the same part of them: only training grows."""
    served = training.simulate_every * rounds / training.rounds
    return {"rounds": rounds, "simulate_every": max(1, round(served))}


def _longer(base: RunConfig) -> Changes:
    return {"training": for_rounds(base.training, LONGER * base.training.rounds)}


def _busy_server(base: RunConfig) -> Changes:
    return {"fedm2ct": {"meta_steps": BUSY * base.fedm2ct.meta_steps}}


def _private(base: RunConfig) -> dict[str, Variant]:
    """Take another private network, or let it see something else."""
    model = base.model
    other = "two-band" if model.private == "unet" else "unet"
    found = {
        f"private-{other}": Variant(
            f"private network: {other}", changes={"model": {"private": other}}
        )
    }
    if model.start != "fbp":  # beside which the private network may see FBP
        sees = model.private_sees_fbp
        found["private-without-fbp" if sees else "private-with-fbp"] = Variant(
            "the private network does not see FBP" if sees else "the private network also sees FBP",
            changes={"model": {"private_sees_fbp": not sees}},
        )
    return found


def _mutual(own: FedM2CTConfig) -> dict[str, Variant]:
    """Change how the networks teach each other."""
    two_way = own.lambda_private == 0
    ramped = own.ramp_rounds > 0
    return {
        "no-mutual": _own("no mutual learning", lambda_private=0.0, lambda_shared=0.0),
        "two-way" if two_way else "one-way": _own(
            f"the shared network teaches the private one too (lambda_private {TWO_WAY_LAMBDA})"
            if two_way
            else "only the private network teaches (lambda_private 0)",
            lambda_private=TWO_WAY_LAMBDA if two_way else 0.0,
        ),
        "no-ramp" if ramped else "ramp": _own(
            "mutual learning at full weight from the first round"
            if ramped
            else f"mutual learning ramped up over {RAMP_ROUNDS} rounds",
            ramp_rounds=0 if ramped else RAMP_ROUNDS,
        ),
    }


def _meta(base: RunConfig) -> dict[str, Variant]:
    """Change the metamodel."""
    titles = {
        "contributed": "meta-set contributed by the sites (patient images leave them)",
        "simulated": "meta-set simulated on public scans",
    }
    found = {
        source: Variant(titles[source], changes={"meta": {"source": source}})
        for source in ("contributed", *(["simulated"] if base.meta.scans else []))
    }
    return {
        "no-metamodel": _own("no metamodel: the plain average", alpha=0.0),
        **found,
        "busy-server": Variant(_BUSY, changes=_busy_server(base)),
        "alpha-half": _own("alpha fixed at 0.5, not searched", alpha=0.5),
        "own-validation": _own("sites validate on their own slices only", public_validation=False),
        "own-training" if base.fedm2ct.public_training else "public-training": _own(
            "sites train on their own slices only"
            if base.fedm2ct.public_training
            else "sites also train on the server's public slices",
            public_training=not base.fedm2ct.public_training,
        ),
    }


def _wiring(base: RunConfig) -> dict[str, Variant]:
    """Connect the networks otherwise."""
    own = base.fedm2ct
    coupling = "side-by-side" if own.coupling == "cascaded" else "cascaded"
    source = "learned" if own.shared_input == "fbp" else "fbp"
    found = {
        coupling: _own(f"networks {coupling}", coupling=coupling),
        f"shared-{source}": _own(f"shared network on {_IMAGES[source]}", shared_input=source),
    }
    if own.coupling == "cascaded":
        image = "initial" if own.cascade_from == "shared" else "shared"
        title = f"cascade: the private network corrects {_IMAGES[image]}"
        found[f"cascade-{image}"] = _own(title, cascade_from=image)
    return found


_STARTS = {
    "fbp": "FBP",
    "tv": "total variation of one strength",
    "scaled-tv": "total variation as strong as the protocol is noisy",
}
_IMAGES = {
    "fbp": "plain FBP",
    "learned": "the learned reconstruction",
    "initial": "the learned reconstruction",
    "shared": "the shared network's output",
}


def _rivals(base: RunConfig) -> dict[str, Variant]:
    """Return the reference rows: the same data, networks, seeds and steps, where not said."""
    analytical: Changes = {"model": {"learn_projection": False}}
    titled = "local only, with the server's public scans"
    public = {
        "local-public": Variant(titled, "local_public"),
        "local-public-long": Variant(f"{titled}, {_LONG}", "local_public", _longer(base)),
    }
    found = {
        "local": Variant("local only", "local"),
        **(public if base.meta.source == "simulated" else {}),
        "local-tv": Variant(
            "local only, from total variation", "local", {"model": {"start": "scaled-tv"}}
        ),
        "local-analytical": Variant("local only, FBP for the learned parts", "local", analytical),
        "local-long": Variant(f"local only, {_LONG}", "local", _longer(base)),
        "fedavg": Variant("FedAvg", "fedavg"),
        "fedavg-cross": Variant("FedAvg, prompted, with cross-protocol training", "fedavg_cross"),
        "fedavg-long": Variant(f"FedAvg, {_LONG}", "fedavg", _longer(base)),
        "fedper": Variant("FedPer (FedAvg, learned private projection)", "fedper"),
        "sc3fl": Variant("3SC-FL", "sc3fl"),
        "sc3fl-long": Variant(f"3SC-FL, {_LONG}", "sc3fl", _longer(base)),
        "sc3fl-busy-server": Variant(f"3SC-FL, {_BUSY}", "sc3fl", _busy_server(base)),
        "pooled": Variant("pooled and prompted (the scans in one place)", "pooled"),
    }
    plain = {v.method: v.config(base) for v in found.values() if not v.changes}
    return {n: v for n, v in found.items() if not v.changes or v.config(base) != plain[v.method]}
