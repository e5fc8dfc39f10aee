"""Confidence sequences on simulated streams: how often they are ever wrong, and the formula by a second computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.offline.estimators.sequential import confidence_sequence


@pytest.mark.parametrize(
    ("name", "mean"), [("coin", 0.5), ("rare", 0.02), ("frequent", 0.97), ("uniform", 0.5), ("skewed", 0.2)]
)
def test_the_mean_is_ever_outside_in_at_most_alpha_of_the_streams(name: str, mean: float) -> None:
    rng = np.random.default_rng(len(name))
    alpha, streams = 0.1, 400
    wrong = [0, 0]
    for _ in range(streams):
        if name == "uniform":
            values = rng.random(2000)
        elif name == "skewed":
            values = rng.beta(0.5, 2.0, 2000)
        else:
            values = (rng.random(2000) < mean).astype(float)
        low, high = confidence_sequence(values, alpha=alpha)
        wrong[0] += bool((low > mean).any())
        wrong[1] += bool((high < mean).any())
    # At most alpha / 2 of them at either end, and four standard errors of what is counted.
    assert max(wrong) / streams <= alpha / 2 + 4 * math.sqrt(alpha / 2 * (1 - alpha / 2) / streams)


def test_a_fixed_intervals_looks_are_wrong_far_more_often() -> None:
    """What the sequence protects from: a 95 % interval that is looked at after each value is often wrong once."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        values = (rng.random(2000) < 0.5).astype(float)
        steps = np.arange(1, 2001)
        means = np.cumsum(values) / steps
        wrong += bool((np.abs(means - 0.5) > 1.96 * 0.5 / np.sqrt(steps))[10:].any())
    assert wrong / 200 > 0.25


def test_the_sequence_narrows_and_never_widens() -> None:
    values = np.random.default_rng(2).beta(2, 5, 20_000)
    low, high = confidence_sequence(values, alpha=0.05)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    assert high[-1] - low[-1] < 0.02
    assert low[-1] < 2 / 7 < high[-1]


def test_the_ends_are_those_of_the_formula_step_by_step() -> None:
    values = np.random.default_rng(3).random(50)
    low, high = confidence_sequence(values, alpha=0.05)
    log = math.log(2 / 0.05)
    mean, variance, total, squares = 0.5, 0.25, 0.0, 0.0
    staked = center = spent = 0.0
    lowest, highest = 0.0, 1.0
    for t, value in enumerate(values.tolist(), start=1):
        bet = min(math.sqrt(2 * log / (variance * t * math.log(1 + t))), 0.5)
        staked += bet
        center += bet * value
        spent += (value - mean) ** 2 * (-math.log(1 - bet) - bet)
        lowest = max(lowest, (center - log - spent) / staked)
        highest = min(highest, (center + log + spent) / staked)
        assert (low[t - 1], high[t - 1]) == pytest.approx((lowest, highest))
        total += value
        mean = (0.5 + total) / (t + 1)
        squares += (value - mean) ** 2
        variance = (0.25 + squares) / (t + 1)
