"""Confidence sequences: intervals of a mean that hold at all sample sizes at once, however often one looks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_BET = 0.5  # the source's c, below 1


def confidence_sequence(values: Floats, *, alpha: float) -> tuple[Floats, Floats]:
    """Computes an empirical Bernstein confidence sequence of the mean of independent values in [0, 1].

    With a probability of at least 1 - alpha the mean lies within the ends at every t. Either end alone errs with a
    probability of at most alpha / 2.

    Args:
        values: (T,) values in the order in which they came.
        alpha: Chance that an end is wrong at any time, in (0, 1).

    Returns:
        (T,) lower and (T,) upper ends, each at its tightest so far.

    Source: Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting, theorem 2 (the
    predictable plug-in empirical Bernstein confidence sequence, with its bets); that the running intersection of a
    confidence sequence is one as well is said there too.
    """
    steps = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (steps + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (steps + 1)
    # Of the values before each step only, so that the bets are predictable.
    mean_before = np.append(0.5, means[:-1])
    variance_before = np.append(0.25, variances[:-1])
    bets = np.sqrt(2 * math.log(2 / alpha) / (variance_before * steps * np.log1p(steps)))
    bets = np.minimum(bets, _MOST_BET)
    spent = np.cumsum(4 * (values - mean_before) ** 2 * (-np.log1p(-bets) - bets) / 4)
    staked = np.cumsum(bets)
    center = np.cumsum(bets * values) / staked
    margin = (math.log(2 / alpha) + spent) / staked
    low = np.maximum.accumulate(np.maximum(center - margin, 0.0))
    high = np.minimum.accumulate(np.minimum(center + margin, 1.0))
    return low, high
