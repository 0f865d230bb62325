"""Averages that a few wrong uploads cannot carry away, coordinate by coordinate.

The coordinate-wise median and trimmed mean (Yin et al. 2018, arXiv 1803.01498). Each coordinate of
the result lies between values that honest sites have sent, as long as wrong ones are fewer than
half (median), or no more than are cut off at each end (trimmed mean). Every site counts alike: a
claimed number of slices gives no power.

Both need all sites' values of a tensor at once, one tensor after the other.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fedm2ct.federation.method import Average, State, Upload, weighted_average

Aggregation = Literal["mean", "median", "trimmed-mean"]


def average_by(aggregation: Aggregation, trim: float) -> Average:
    """Return the rule of a name.

    Parameters
    ----------
    aggregation
        ``mean`` is the average weighted by the sites' slices.
    trim
        For ``trimmed-mean``: the share of the sites that is cut off at each end.
    """
    rules: dict[str, Average] = {
        "mean": weighted_average,
        "median": median,
        "trimmed-mean": partial(trimmed_mean, trim=trim),
    }
    return rules[aggregation]


def median(uploads: Sequence[Upload]) -> State:
    """Return each coordinate's median over the sites; of an even number, the middle two's mean.

    Raises
    ------
    ValueError
        If there is no upload.
    """
    cut = (len(uploads) - 1) // 2
    return _mean_of_the_middle(uploads, cut)


def trimmed_mean(uploads: Sequence[Upload], trim: float) -> State:
    """Return each coordinate's mean over the sites without its largest and its smallest values.

    Raises
    ------
    ValueError
        If there is no upload.
    """
    return _mean_of_the_middle(uploads, sites_cut(len(uploads), trim))


def sites_cut(sites: int, trim: float) -> int:
    """Return how many of a number of sites are cut off at each end.

    Rounded up, so that a small share of few sites is not silently none; one or two are left over
    at least. Of two sites none is cut: nothing tells which of two is wrong.
    """
    return max(0, min(math.ceil(trim * sites), (sites - 1) // 2))


def _mean_of_the_middle(uploads: Sequence[Upload], cut: int) -> State:
    if not uploads:
        raise ValueError("cannot average: no upload of this round was accepted")
    result: State = {}
    for name in uploads[0].shared:
        values = torch.stack([upload.shared[name] for upload in uploads])
        ordered: Tensor = values.sort(dim=0).values[cut : len(uploads) - cut]
        result[name] = ordered.double().mean(dim=0).to(values.dtype)
    return result
