"""Evaluates policies on held-out episodes and selects one, without an environment.

The rule: select the latest iteration whose value by fitted Q evaluation is within 1 % of the best, and save the running
mean of its weights, because the quality of single iterates fluctuates. Importance sampling cannot rank policies whose
episodes last ten times longer than the log's, and the learner's own values rise with any policy; both are
reported as diagnostics. benchmarks/offline.md has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.fqe import COARSE, FINE, FittedQEvaluation
from runtime.offline.estimators.ope import (
    ESTIMATORS,
    Episodes,
    Terms,
    bootstrap,
    draw_counts,
    effective_sample_size,
    estimate,
    importance_sampling,
    lower_bound,
)
from runtime.policies.network_policy import NetworkPolicy

TOLERANCE = 0.01
LEAST_SAMPLE = 10.0
_MOST_STEPS = 20_000
_FEATURE_DRAWS = 2  # sets of random features, for each of the two smoothness settings
_REFITS = 25  # bootstrap refits of each regression
# Factor on the half-widths of the refits' intervals; benchmarks/offline.md has the coverage.
_WIDER = 1.5
_RESAMPLES = 1000
_TEMPERATURE = 1.0  # Coach's, for its two estimators
_EPSILON = 0.1  # share of uniform actions without which the weights of a deterministic policy are mostly 0
# Coach's two estimators evaluate a softmax policy, with the learner's own values.
COACHS = {"weighted_importance_sampling": "wis", "sequential_doubly_robust": "sdr"}


def choose(values: Sequence[float], *, logged: float) -> int:
    """Returns the index of the iteration that the selection rule picks, from 0.

    Args:
        values: Estimated return of each iteration.
        logged: Discounted return of the log. Where the best value is near 0, the tolerance is relative to the best
            value's improvement over it.
    """
    best = max(values)
    least = best - TOLERANCE * max(abs(best), abs(best - logged))
    return max(i for i, value in enumerate(values) if value >= least)


@dataclass(frozen=True)
class Estimate:
    """An estimated discounted return with its confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the 95 % confidence interval.
    """

    value: float
    low: float
    high: float

    def text(self) -> str:
        """Returns the estimate and its interval as text."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def within(self, bounds: ReturnBounds) -> Estimate:
        """Returns the estimate with each number clipped to the bounds."""
        return Estimate(bounds.clip(self.value), bounds.clip(self.low), bounds.clip(self.high))


@dataclass(frozen=True)
class Report:
    """Off-policy estimates of the chosen policy.

    Attributes:
        value: Its discounted return, by fitted Q evaluation.
        behaviour: Mean discounted return of the logged episodes.
        behaviour_return: Mean undiscounted return of the logged episodes.
        episodes: Number of held-out episodes behind the estimates.
        estimators: Other estimates of the policy, by name; empty where actions are continuous.
        sample_size: Effective sample size of the importance weights, in episodes; None for continuous actions.
        lower_bound: Lower bound on the return at 95 % confidence, by importance sampling; None for continuous actions.
        warnings: Reasons to distrust the estimates, one line each.
    """

    value: Estimate
    behaviour: Estimate
    behaviour_return: Estimate
    episodes: int
    estimators: Mapping[str, Estimate] = field(default_factory=dict)
    sample_size: float | None = None
    lower_bound: float | None = None
    warnings: tuple[str, ...] = ()


class PolicyEvaluator:
    """Estimates the returns of policies from held-out episodes.

    Args:
        data: The episodes, with the behavior policy's probabilities where actions are discrete.
        gamma: Discount per step, below 1.
        seed: Seed of random features and bootstrap resamples.
        bounds: Limits of discounted returns, which clip all estimates and intervals; derived from the data's rewards
            if None.
    """

    def __init__(self, data: Transitions, *, gamma: float, seed: int, bounds: ReturnBounds | None = None) -> None:
        self.data = data
        self._gamma = gamma
        self._seed = seed
        self._bounds = bounds or bound_returns(data, gamma)
        self._models = [
            FittedQEvaluation(self.data, gamma=gamma, seed=seed + draw, smoothness=smoothness, bounds=self._bounds)
            for draw in range(_FEATURE_DRAWS)
            for smoothness in (FINE, COARSE)
        ]

    def score(self, policy: NetworkPolicy) -> dict[str, float]:
        """Estimates of a policy by name; the selection rule compares `estimated_return`."""
        target = self._target(policy)
        evaluated = [model.evaluate(target) for model in self._models]
        found = {"estimated_return": float(np.mean([one.start for one in evaluated]))}
        if self.data.probabilities is None:
            return found
        soft = policy.probabilities(self.data.states, temperature=_TEMPERATURE)
        own = policy.q_values(self.data.states)
        episodes = self._episodes(soft, own)
        for name, short in COACHS.items():
            one = self._estimate(ESTIMATORS[short](episodes))
            found |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        q_values = np.mean([one.q_values for one in evaluated], axis=0)
        mixed = self._episodes(policy.probabilities(self.data.states, epsilon=_EPSILON), q_values)
        found["weighted_doubly_robust"] = self._bounds.clip(estimate("wdr", mixed))
        found["effective_sample_size"] = effective_sample_size(mixed.relative_weights[:, -1])
        return found

    @property
    def logged(self) -> float:
        """Mean discounted return of the episodes."""
        return float(self._discounted_returns().mean())

    def report(self, policy: NetworkPolicy, *, is_urgent: bool = False) -> Report:
        """Reports all estimates of a policy with intervals; from fewer refits if urgent, as after SIGTERM."""
        target = self._target(policy)
        evaluated = [model.evaluate(target) for model in self._models]
        value = float(np.mean([one.start for one in evaluated]))
        refits = [
            model.resample(target, resamples=5 if is_urgent else _REFITS, seed=self._seed + draw)
            for draw, model in enumerate(self._models)
        ]
        interval = self._widened(value, *np.quantile(np.concatenate(refits), [0.025, 0.975]))
        discounted = self._discounted_returns()
        behavior, plain = (_mean_with_interval(returns, self._seed) for returns in (discounted, self.data.returns))
        facts: dict[str, Any] = {"value": interval, "behaviour": behavior, "behaviour_return": plain}
        facts["episodes"] = len(self.data.starts)
        if self.data.probabilities is None:
            return Report(**facts)
        q_values = np.mean([one.q_values for one in evaluated], axis=0)
        episodes = self._episodes(target[: len(self.data)], q_values)
        estimators = {name: self._estimate(make(episodes)) for name, make in ESTIMATORS.items()}
        estimators["magic"] = Estimate(estimate("magic", episodes), math.nan, math.nan)
        estimators = {name: one.within(self._bounds) for name, one in estimators.items()}
        size = effective_sample_size(episodes.relative_weights[:, -1])
        least = self._bounds.low
        # Rounding may leave a return slightly below the least possible one.
        weighted = np.maximum(importance_sampling(_shifted(episodes, least)).plain, 0)
        bound = lower_bound(weighted) + least if np.isfinite(weighted).all() else least
        return Report(
            **facts,
            estimators=estimators,
            sample_size=size,
            lower_bound=bound,
            warnings=_warnings(size, len(discounted)),
        )

    def _widened(self, value: float, low: float, high: float) -> Estimate:
        """Widens the interval of the refits, as selecting the best iteration biases its estimate upwards."""
        below = max(value - float(low), 0.0)
        above = max(float(high) - value, 0.0)
        return Estimate(value, value - _WIDER * below, value + _WIDER * above).within(self._bounds)

    def _estimate(self, terms: Terms) -> Estimate:
        value = float(terms.estimate(np.ones((1, len(terms.plain))))[0])
        return Estimate(value, *bootstrap(terms, seed=self._seed, resamples=_RESAMPLES))

    def _target(self, policy: NetworkPolicy) -> NDArray[np.float32]:
        if self.data.num_actions is None:
            return policy.actions(self.data.observations)
        return policy.probabilities(self.data.observations)

    def _episodes(self, target: NDArray[np.float32], q_values: NDArray[np.floating[Any]]) -> Episodes:
        """Arranges the held-out episodes for a policy's action probabilities (N, A) and a model's values (N, A)."""
        actions = self.data.actions[:, None]
        return Episodes.from_steps(
            self.data.lengths,
            gamma=self._gamma,
            rewards=self.data.rewards,
            target=np.take_along_axis(target, actions, axis=1)[:, 0],
            behavior=self.data.chosen_probabilities,
            q_values=np.take_along_axis(q_values, actions, axis=1)[:, 0],
            state_values=(target * q_values).sum(axis=1),
        )

    def _discounted_returns(self) -> NDArray[np.float64]:
        steps = np.arange(len(self.data)) - np.repeat(self.data.starts, self.data.lengths)
        return np.asarray(np.add.reduceat(self.data.rewards * self._gamma**steps, self.data.starts), np.float64)


def draw_evaluation_episodes(held_out: Transitions, *, seed: int) -> Transitions:
    """Draws held-out episodes of about _MOST_STEPS steps in all, at least two; all of them if there are fewer steps."""
    if len(held_out) <= _MOST_STEPS:
        return held_out
    order = np.random.default_rng(seed).permutation(len(held_out.starts))
    count = max(2, int(np.searchsorted(np.cumsum(held_out.lengths[order]), _MOST_STEPS)))
    return held_out.select(np.sort(order[:count]))


def _mean_with_interval(values: NDArray[np.float64], seed: int) -> Estimate:
    means = [counts @ values / counts.sum(axis=1) for counts in draw_counts(len(values), _RESAMPLES, seed=seed)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _shifted(episodes: Episodes, least: float) -> Episodes:
    """Subtracts the least possible return from all episodes, as the lower bound needs returns of at least 0."""
    if least == 0:
        return episodes
    rewards = episodes.rewards.copy()
    rewards[:, 0] -= least
    return Episodes(
        rewards, episodes.ratios, episodes.q_values, episodes.state_values, episodes.lengths, episodes.gamma
    )


def _warnings(size: float, episodes: int) -> tuple[str, ...]:
    found = []
    if size < LEAST_SAMPLE:
        found.append(
            f"the effective sample size is {size:.1f} episodes, below {LEAST_SAMPLE:g}: importance sampling "
            "cannot tell policies apart here, and its intervals are too narrow"
        )
    if episodes < 30:
        found.append(f"{episodes} held-out episodes, fewer than 30: every interval is rough")
    return tuple(found)
