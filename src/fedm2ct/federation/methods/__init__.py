"""The methods, by name. A new one is one file here and one line in `METHODS`."""

from collections.abc import Callable

from fedm2ct.federation.methods import fedavg, fedm2ct, fedper, local, pooled
from fedm2ct.federation.methods.setup import Halves, Setup

METHODS: dict[str, Callable[[Setup], Halves]] = {
    "local": local.build,
    "fedavg": fedavg.build,
    "fedper": fedper.build,
    "pooled": pooled.build,
    "fedm2ct": fedm2ct.build,
}
