"""Confidence intervals of a policy's value that say what a log does not support.

Each half of the held-out episodes corrects the value function that was fitted to the other half, with errors of
independent episodes. To that margin come an event that no episode shows, and what may happen outside of the log.
benchmarks/intervals.md has the coverage of this interval and of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.fqe import COARSE, FINE, Debiased, FittedQEvaluation
from runtime.offline.estimators.ope import effective_sample_size, student_margin
from runtime.offline.estimators.support import Act, LogModel, Rollouts

_ROLLOUTS = 100
_UNSEEN = 3.0  # an event that none of n episodes shows has a probability of at most 3 / n, with 95 % confidence
_VACUOUS = 0.9  # share of all possible returns

Target = Callable[[Transitions], NDArray[np.float32]]


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval and what it rests on.

    Attributes:
        low: Lower end.
        high: Upper end.
        halves: The policy's value by each half of the episodes.
        outside: Discounted share of the policy's rollouts that leave the log's states.
        fit_p_value: P-value of the hypothesis that the value function's errors on other episodes are 0 on average.
        sample_size: Effective number of episodes behind the correction.
        corrected: Ends of the interval without what no episode shows and what is outside of the log.
        modelled: The least and the largest return of the rollouts in the log's model, on average.
        is_vacuous: Whether the data support nothing narrower than (nearly) all possible returns.
    """

    low: float
    high: float
    halves: tuple[float, float]
    outside: float
    fit_p_value: float
    sample_size: float
    corrected: tuple[float, float]
    modelled: tuple[float, float]
    is_vacuous: bool


class IntervalEstimator:
    """Computes intervals of policies' values from one log.

    Args:
        data: Held-out episodes.
        log: All episodes that say which states the log has.
        gamma: Discount per step, below 1.
        seed: Seed of the halves, the features and the rollouts.
        bounds: Limits of discounted returns.
    """

    def __init__(self, data: Transitions, *, log: Transitions, gamma: float, seed: int, bounds: ReturnBounds) -> None:
        self._gamma = gamma
        self._seed = seed
        self._bounds = bounds
        # One episode cannot be halved: it would check itself.
        self._halves = data.split(0.5, seed=seed) if len(data.starts) > 1 else (data, data)
        self._models = [
            [
                FittedQEvaluation(half, gamma=gamma, seed=seed, smoothness=smoothness, bounds=bounds)
                for half in self._halves
            ]
            for smoothness in (FINE, COARSE)
        ]
        self._log_model = LogModel(log, seed=seed)

    def estimate(self, target: Target, act: Act, *, value: float) -> Interval:
        """Computes a policy's interval, which contains the given estimate.

        Args:
            target: Returns the policy's action probabilities (or actions) at all observations of some data.
            act: Returns the same at any (B, O) states.
            value: Estimated value of the policy.
        """
        first, second = (target(half) for half in self._halves)
        found: list[Debiased] = []
        starts = []
        rolled = self._log_model.roll(act, gamma=self._gamma, rollouts=_ROLLOUTS, seed=self._seed)
        ahead = np.zeros(_ROLLOUTS)
        for one, other in self._models:
            by_first, by_second = one.evaluate(first), other.evaluate(second)
            starts.append((by_first.start, by_second.start))
            found.append(
                _joined(
                    other.debias(by_second, second, self._halves[0], first),
                    one.debias(by_first, first, self._halves[1], second),
                )
            )
            for model, evaluated in ((one, by_first), (other, by_second)):
                ahead += model.values_at(evaluated, rolled.states, rolled.actions) / (2 * len(self._models))
        values = np.mean([one.values for one in found], axis=0)
        corrections = np.mean([one.corrections for one in found], axis=0)
        size = effective_sample_size(np.abs(np.mean([one.weights for one in found], axis=0)))
        margin = student_margin(values - values.mean())
        corrected = min(value, values.mean() - margin), max(value, values.mean() + margin)
        low, high = self._widened(*corrected, value=value, size=size, rolled=rolled, ahead=ahead)
        all_returns = self._bounds.high - self._bounds.low
        is_vacuous = all_returns > 0 and high - low >= _VACUOUS * all_returns
        first_half, second_half = np.mean(starts, axis=0).tolist()
        return Interval(
            low=self._bounds.low if is_vacuous else low,
            high=self._bounds.high if is_vacuous else high,
            halves=(first_half, second_half),
            outside=rolled.outside,
            fit_p_value=_p_value(corrections),
            sample_size=size,
            corrected=(self._bounds.clip(corrected[0]), self._bounds.clip(corrected[1])),
            modelled=(
                float((rolled.rewards + rolled.discounts * self._bounds.low).mean()),
                float((rolled.rewards + rolled.discounts * self._bounds.high).mean()),
            ),
            is_vacuous=is_vacuous,
        )

    def _widened(
        self, low: float, high: float, *, value: float, size: float, rolled: Rollouts, ahead: NDArray[np.float64]
    ) -> tuple[float, float]:
        """Adds what an unseen event may change, and what may follow where a rollout leaves the log.

        Args:
            low: Lower end without either.
            high: Upper end without either.
            value: Estimated value of the policy.
            size: Effective number of episodes.
            rolled: Rollouts of the policy.
            ahead: (N,) estimated value at the state and action with which each rollout left the log.
        """
        unseen = min(1.0, _UNSEEN / size) if size > 0 else 1.0
        low -= unseen * max(value - self._bounds.low, 0) + float((rolled.discounts * (ahead - self._bounds.low)).mean())
        high += unseen * max(self._bounds.high - value, 0)
        high += float((rolled.discounts * (self._bounds.high - ahead)).mean())
        return float(self._bounds.clip(low)), float(self._bounds.clip(high))


def _joined(first: Debiased, second: Debiased) -> Debiased:
    return Debiased(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.weights, second.weights]),
        np.concatenate([first.corrections, second.corrections]),
    )


def _p_value(corrections: NDArray[np.float64]) -> float:
    """P-value of a two-sided t-test of a mean of 0."""
    from scipy.stats import t

    spread = float(corrections.std(ddof=1)) if len(corrections) > 1 else 0.0
    if not spread > 0 or not math.isfinite(spread):
        return 1.0
    statistic = abs(float(corrections.mean())) / (spread / math.sqrt(len(corrections)))
    return float(2 * t.sf(statistic, len(corrections) - 1))


def describe(interval: Interval, *, bounds: ReturnBounds) -> tuple[str, ...]:
    """Says in plain sentences what the data do not support."""
    found = []
    if interval.is_vacuous:
        found.append(
            f"this log supports no interval: any possible return, {bounds.low:.2f} to {bounds.high:.2f}, may be the "
            "policy's. Collect episodes of the policy, or of one closer to it"
        )
    elif interval.outside >= 0.02:
        found.append(
            f"the ends of the interval rest on states that the log does not have: {interval.outside:.0%} of the "
            "policy's discounted steps lie there"
        )
    if interval.fit_p_value < 0.01:
        found.append(
            f"fitted Q evaluation does not fit other episodes of the log (p = {interval.fit_p_value:.1g}): "
            "trust the interval, not the estimate"
        )
    return tuple(found)
