"""The methods, by name. A new one is one file here and one line in `METHODS`."""

from collections.abc import Callable

from fedm2ct.federation.methods import (
    ditto,
    fedavg,
    feddyn,
    fedfdd,
    fedkd,
    fedm2ct,
    fedmri,
    fednova,
    fedper,
    fedprox,
    fedrep,
    finetuned,
    fml,
    hyperfed,
    local,
    local_public,
    moon,
    pooled,
    pooled_plain,
    sc3fl,
    scaffold,
    scanphysfed,
)
from fedm2ct.federation.methods.setup import Halves, Setup

METHODS: dict[str, Callable[[Setup], Halves]] = {
    "local": local.build,
    "local_public": local_public.build,
    "fedavg": fedavg.build,
    "fedper": fedper.build,
    "fedprox": fedprox.build,
    "fednova": fednova.build,
    "scaffold": scaffold.build,
    "feddyn": feddyn.build,
    "moon": moon.build,
    "fedrep": fedrep.build,
    "ditto": ditto.build,
    "finetuned": finetuned.build,
    "fml": fml.build,
    "fedkd": fedkd.build,
    "hyperfed": hyperfed.build,
    "fedmri": fedmri.build,
    "fedfdd": fedfdd.build,
    "sc3fl": sc3fl.build,
    "scanphysfed": scanphysfed.build,
    "pooled": pooled.build,
    "pooled_plain": pooled_plain.build,
    "fedm2ct": fedm2ct.build,
}
