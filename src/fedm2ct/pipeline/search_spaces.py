"""Where each method's own options are searched: ranges about the papers' values.

Options that cost work (`meta_steps`) or change what the method is (its switches, each with an
ablation row) are not tuned: equal budgets must buy the same kind of thing for everyone.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a logarithmic scale or not; whole ones or not."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, fraction: float) -> float | int:
        """Return what lies at a fraction of the range, from 0 (`low`) to 1, on its scale."""
        if self.whole:
            return int(self.low + math.floor(fraction * (self.high - self.low + 1)))
        if self.log:
            return float(self.low * (self.high / self.low) ** fraction)
        return float(self.low + fraction * (self.high - self.low))


SPACES: dict[str, dict[str, Range]] = {
    "fedm2ct": {
        "lambda_private": Range(0.0, 1.0),
        "lambda_shared": Range(0.0, 1.0),
        "ramp_rounds": Range(0, 6, whole=True),
    },
    "fedprox": {"mu": Range(1e-4, 1.0, log=True)},
    "scaffold": {"global_rate": Range(0.1, 2.0, log=True)},
    "feddyn": {"alpha": Range(1e-4, 1.0, log=True)},
    "moon": {"mu": Range(1e-3, 10.0, log=True), "temperature": Range(0.1, 2.0, log=True)},
    "fedrep": {"head_share": Range(0.1, 0.95)},
    "ditto": {"lambda_personal": Range(0.01, 10.0, log=True)},
    "finetuned": {"share": Range(0.1, 0.75)},
    "fml": {"alpha": Range(0.1, 1.0), "beta": Range(0.1, 1.0)},
    "fedmri": {"mu": Range(1e-3, 10.0, log=True)},
    "scanphysfed": {"weight": Range(1e-6, 0.1, log=True)},
}
"""By method (a table ``[method.NAME]``, or ``[fedm2ct]``) and option."""

NOT_TUNED = {
    "fedm2ct": (
        "coupling",
        "cascade_from",
        "shared_input",
        "prompted",
        "meta_steps",
        "alpha",
        "public_validation",
        "public_training",
        "exchange",
        "cross_protocol",
    ),
}
"""Options without a range: switches, and what would buy a method more work."""
