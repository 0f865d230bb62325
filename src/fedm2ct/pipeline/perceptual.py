"""Perceptual metrics where a run asks for them: never a reason for a run to fail."""

import warnings

from fedm2ct.data.network_weights import WeightsUnavailable, fetch_weights, load_weights
from fedm2ct.data.sample_cache import Progress
from fedm2ct.evaluation.perceptual import Perceptual


def prepare_perceptual(wanted: bool, progress: Progress | None = None) -> None:
    """Fetch the networks' weights before workers need them; warn where they are not to be had.

    Parameters
    ----------
    wanted
        Whether the run asks for perceptual metrics.
    progress
        See `fetch_weights`.
    """
    if not wanted:
        return
    try:
        fetch_weights(progress)
    except WeightsUnavailable as error:
        warnings.warn(f"No perceptual metrics: {error}", UserWarning, stacklevel=2)


def perceptual_metrics(wanted: bool) -> Perceptual | None:
    """Return the metrics where they are asked for and their weights are cached."""
    weights = load_weights() if wanted else None
    return None if weights is None else Perceptual(weights)
