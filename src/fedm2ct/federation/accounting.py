"""How much privacy is spent, by Google's dp-accounting (Renyi accountant; extra ``privacy``).

Renyi differential privacy (Mironov 2017, doi 10.1109/CSF.2017.11), of the subsampled Gaussian
mechanism for slices (Mironov et al. 2019, arXiv 1908.10530), converted to (epsilon, delta).
"""

import math
from importlib import import_module
from types import ModuleType

from fedm2ct.errors import FedM2CTError

_WHOLE_ORDERS = [*range(2, 128), 160, 192, 256, 384, 512, 1024]
"""Renyi orders for subsampling, whose series for orders between these may not converge."""


def update_epsilon(noise: float, rounds: int, delta: float) -> float:
    """Return epsilon of clipped and noised updates of one site, after a number of rounds.

    It bounds what any change of the site's data may change in what is seen of its updates, be it a
    slice, a patient or all of it: two clipped updates are at most twice the clipping length apart,
    so the noise counts half. It assumes nothing of the server or of other sites.

    Parameters
    ----------
    noise
        Standard deviation of the noise in units of the clipping length.
    rounds
        Rounds in which the site has sent an update.
    delta
        Probability with which the bound may fail.
    """
    if noise == 0 or rounds == 0:
        return math.inf if rounds else 0.0
    dp = library()
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(dp.GaussianDpEvent(noise / 2), rounds)
    return float(accountant.get_epsilon(delta))


def slice_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon of DP-SGD for one slice of a site, after a number of steps.

    Data sets that differ by one slice, added or removed, are neighbours. Slices of one patient are
    many: a patient with k of them is protected k times less, at least.

    Parameters
    ----------
    noise
        Standard deviation of the noise in units of the clipping length.
    rate
        Probability with which a slice takes part in a step.
    steps
        Steps taken.
    delta
        Probability with which the bound may fail; well below one over the number of slices.
    """
    if noise == 0 or steps == 0:
        return math.inf if steps else 0.0
    dp = library()
    accountant = dp.rdp.RdpAccountant(_WHOLE_ORDERS)
    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


def library() -> ModuleType:
    """Return dp-accounting.

    Raises
    ------
    FedM2CTError
        If it is not installed.
    """
    try:
        import_module("dp_accounting.rdp")
        return import_module("dp_accounting")
    except ImportError as error:
        raise FedM2CTError(
            "noise for privacy needs an accountant: pip install 'fedm2ct[privacy]', or set the "
            "fields of [privacy] to no noise"
        ) from error
