"""Estimates of a policy's value with confidence intervals that say what a log does not support.

The policy is rolled out in models made of the log's own transitions, each of another draw of its episodes. What follows
where a rollout leaves the log is estimated by fitted Q evaluation, and bounded by the possible returns alone.
benchmarks/intervals.md has the coverage of this interval and of others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.support import Act, LogModel

_DRAWS = 40  # draws of the log's episodes
ROLLOUTS = 100  # in each draw, where the interval is what is asked for
FEW_ROLLOUTS = 25  # where policies are compared by their means
_ERRORS = 2.0  # standard errors on either side: 95 %, with the degrees of freedom that 40 draws have
_UNSEEN = 3.0  # an event that none of n episodes shows has a probability of at most 3 / n, with 95 % confidence
_VACUOUS = 0.9  # share of all possible returns

# Values at (B, O) states of (B,) discrete actions, or of (B, A) continuous ones.
Values = Callable[[NDArray[np.float32], NDArray[np.floating]], NDArray[np.floating]]


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % confidence interval, and what they rest on.

    Attributes:
        value: The estimate: rewards inside of the log, and what fitted Q evaluation expects outside.
        low: Lower end.
        high: Upper end.
        pessimistic: Mean return of the rollouts if the least possible return follows wherever one leaves the log.
        outside: Discounted share of the policy's rollouts that leave the log's states.
        sample_size: Effective number of the log's episodes behind the rollouts.
        is_vacuous: Whether the data support nothing narrower than (nearly) all possible returns.
    """

    value: float
    low: float
    high: float
    pessimistic: float
    outside: float
    sample_size: float
    is_vacuous: bool


class IntervalEstimator:
    """Estimates policies' values from one log.

    Args:
        log: All episodes.
        gamma: Discount per step, below 1.
        seed: Seed of the draws and the rollouts.
        bounds: Limits of discounted returns.
    """

    def __init__(self, log: Transitions, *, gamma: float, seed: int, bounds: ReturnBounds) -> None:
        self._gamma = gamma
        self._seed = seed
        self._bounds = bounds
        self._model = LogModel(log, seed=seed)

    def estimate(self, act: Act, values: Values, *, rollouts: int = ROLLOUTS) -> Interval:
        """Estimates a policy's value with its interval.

        Args:
            act: Returns the policy's (B, A) action probabilities, or its continuous actions, at (B, O) states.
            values: The policy's estimated values, for the states in which rollouts leave the log.
            rollouts: Number of rollouts in each draw. Fewer make the interval wider.
        """
        rolled = self._model.roll(act, gamma=self._gamma, draws=_DRAWS, rollouts=rollouts, seed=self._seed)
        ahead = np.asarray(values(rolled.states, rolled.actions), np.float64).reshape(rolled.rewards.shape)
        inside = rolled.rewards + rolled.remainders * ahead
        least, largest = (inside + rolled.discounts * end for end in (self._bounds.low, self._bounds.high))
        unseen = min(1.0, _UNSEEN / max(rolled.sample_size, 1.0))
        # The draws' means vary as those of other logs would, and a little by the rollouts in each.
        errors = [_ERRORS * ends.mean(axis=1).std(ddof=1) for ends in (least, largest)]
        low = least.mean() - errors[0] - unseen * (least.mean() - self._bounds.low)
        high = largest.mean() + errors[1] + unseen * (self._bounds.high - largest.mean())
        low, high = self._bounds.clip(float(low)), self._bounds.clip(float(high))
        all_returns = self._bounds.high - self._bounds.low
        is_vacuous = all_returns > 0 and high - low >= _VACUOUS * all_returns
        return Interval(
            value=self._bounds.clip(float((inside + rolled.discounts * ahead).mean())),
            low=self._bounds.low if is_vacuous else low,
            high=self._bounds.high if is_vacuous else high,
            pessimistic=self._bounds.clip(float(least.mean())),
            outside=rolled.outside,
            sample_size=rolled.sample_size,
            is_vacuous=is_vacuous,
        )


def describe(interval: Interval, *, bounds: ReturnBounds) -> tuple[str, ...]:
    """Says in plain sentences what the data do not support."""
    if interval.is_vacuous:
        return (
            f"this log supports no interval: any possible return, {bounds.low:.2f} to {bounds.high:.2f}, may be the "
            "policy's. Collect episodes of the policy, or of one closer to it",
        )
    if interval.outside >= 0.02:
        return (
            f"the ends of the interval rest on states that the log does not have: {interval.outside:.0%} of the "
            "policy's discounted steps lie there",
        )
    return ()
