"""Evaluates policies on held-out episodes and selects one, without an environment.

The rule: select the latest iteration whose pessimistic return is within 1 % of the highest. An iteration's policy is
the running mean of its weights, because the quality of single iterates fluctuates. Importance sampling cannot rank
policies whose episodes last ten times longer than the log's, and the learner's own values rise with any policy; both
are reported as diagnostics. benchmarks/intervals.md and benchmarks/offline.md have the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.fit import FitTest
from runtime.offline.estimators.fqe import COARSE, FINE, Evaluated, FittedQEvaluation
from runtime.offline.estimators.intervals import FEW_ROLLOUTS, ROLLOUTS, Interval, IntervalEstimator, describe
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
_RESAMPLES = 1000
_RANKED = 4  # iterations, below which a rank correlation says nothing
_SIGNAL = 0.3  # rank correlation of two estimators below which they do not agree
_MISFIT = 0.01  # p-value
_TEMPERATURE = 1.0  # Coach's, for its two estimators
_EPSILON = 0.1  # share of uniform actions without which the weights of a deterministic policy are mostly 0
# Coach's two estimators evaluate a softmax policy, with the learner's own values.
COACHS = {"weighted_importance_sampling": "wis", "sequential_doubly_robust": "sdr"}


def choose(values: Sequence[float], *, logged: float) -> int:
    """Returns the index of the iteration that the selection rule picks, from 0.

    Args:
        values: Pessimistic return of each iteration.
        logged: Discounted return of the log. Where the best value is near 0, the tolerance is relative to the best
            value's improvement over it.
    """
    best = max(values)
    least = best - TOLERANCE * max(abs(best), abs(best - logged))
    return max(i for i, value in enumerate(values) if value >= least)


def rank_agreement(pairs: Sequence[tuple[float, float]]) -> float:
    """Computes Spearman's rank correlation of the iterations by two estimators; 0 where one of them has no order.

    Args:
        pairs: Estimated return of each iteration by either estimator.
    """
    from scipy.stats import rankdata

    first, second = (rankdata(column) for column in np.array(pairs).T)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


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
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:.2f}, without an interval"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def within(self, bounds: ReturnBounds) -> Estimate:
        """Returns the estimate with each number clipped to the bounds."""
        return Estimate(bounds.clip(self.value), bounds.clip(self.low), bounds.clip(self.high))


@dataclass(frozen=True)
class Report:
    """Off-policy estimates of the chosen policy.

    Attributes:
        value: Its discounted return.
        behaviour: Mean discounted return of the logged episodes.
        behaviour_return: Mean undiscounted return of the logged episodes.
        episodes: Number of held-out episodes behind the estimates.
        estimators: Other estimates of the policy, by name: `dm` alone where there are no action probabilities.
        left_out: Estimators that the log does not support, with the reason.
        sample_size: Effective sample size of the importance weights, in episodes; None without action probabilities.
        lower_bound: Lower bound on the return at 95 % confidence, by importance sampling; None likewise.
        outside: Discounted share of the policy's rollouts that leave the log's states.
        fit_p_value: P-value of the fit of fitted Q evaluation to episodes that it was not fitted to.
        refused: Why there is no interval, which then is all possible returns; empty if there is one.
        warnings: Reasons to distrust the estimates, one line each.
    """

    value: Estimate
    behaviour: Estimate
    behaviour_return: Estimate
    episodes: int
    estimators: Mapping[str, Estimate] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    sample_size: float | None = None
    lower_bound: float | None = None
    outside: float | None = None
    fit_p_value: float | None = None
    refused: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A policy's estimated discounted return.

    Attributes:
        interval: The estimate with its 95 % confidence interval.
        fit_p_value: P-value of the fit of fitted Q evaluation to episodes that it was not fitted to.
    """

    interval: Interval
    fit_p_value: float

    @property
    def value(self) -> float:
        """The estimate."""
        return self.interval.value

    def doubts(self, bounds: ReturnBounds) -> tuple[str, ...]:
        """Says in plain sentences what the data do not support."""
        found = describe(self.interval, bounds=bounds)
        if self.fit_p_value >= _MISFIT:
            return found
        return (
            *found,
            f"fitted Q evaluation does not fit other episodes of the log (p = {self.fit_p_value:.1g}): trust the "
            "interval, not the estimate",
        )


class TargetPolicy(Protocol):
    """A policy to evaluate; only the method for the log's kind of actions is called."""

    def probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (B, A) probabilities of the discrete actions at (B, O) observations."""

    def actions(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (B, A) continuous actions at (B, O) observations."""


class PolicyEvaluator:
    """Estimates the returns of policies from held-out episodes.

    Args:
        data: The episodes, with the behavior policy's probabilities where actions are discrete.
        gamma: Discount per step, below 1.
        seed: Seed of random features and bootstrap resamples.
        bounds: Limits of discounted returns, which clip all estimates and intervals; derived from the data's rewards
            if None.
        log: Episodes in whose transitions policies are rolled out; `data` if None.
    """

    def __init__(
        self,
        data: Transitions,
        *,
        gamma: float,
        seed: int,
        bounds: ReturnBounds | None = None,
        log: Transitions | None = None,
    ) -> None:
        self.data = data
        self._gamma = gamma
        self._seed = seed
        self._bounds = bounds or bound_returns(data, gamma)
        self._models = [
            FittedQEvaluation(self.data, gamma=gamma, seed=seed + draw, smoothness=smoothness, bounds=self._bounds)
            for draw in range(_FEATURE_DRAWS)
            for smoothness in (FINE, COARSE)
        ]
        self._intervals = IntervalEstimator(log or data, gamma=gamma, seed=seed, bounds=self._bounds)

    def score(self, policy: NetworkPolicy) -> dict[str, float]:
        """Estimates of a policy by name; the selection rule compares `pessimistic_return`."""
        target = self._target(policy, self.data)
        evaluated = [model.evaluate(target) for model in self._models]
        interval = self._interval(policy, evaluated, rollouts=FEW_ROLLOUTS)
        found = {
            "estimated_return": interval.value,
            "estimated_return_low": interval.low,
            "estimated_return_high": interval.high,
            "pessimistic_return": interval.pessimistic,
            "outside_the_log": interval.outside,
            "fitted_q_evaluation": float(np.mean([one.start for one in evaluated])),
        }
        if not self.data.has_probabilities:
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

    def judge(self, policy: TargetPolicy) -> Judged:
        """Estimates the discounted return of a policy with its interval."""
        return self._judge(policy)[0]

    def _judge(self, policy: TargetPolicy) -> tuple[Judged, NDArray[np.float32], list[Evaluated]]:
        """Returns the estimate, the policy's probabilities or actions at all observations, and its value functions."""
        target = self._target(policy, self.data)
        evaluated = [model.evaluate(target) for model in self._models]
        interval = self._interval(policy, evaluated, rollouts=ROLLOUTS)
        fit = FitTest(self.data, gamma=self._gamma, seed=self._seed, bounds=self._bounds)
        return Judged(interval, fit.p_value(lambda data: self._target(policy, data))), target, evaluated

    @property
    def logged(self) -> float:
        """Mean discounted return of the episodes."""
        return float(self._discounted_returns().mean())

    def report(self, policy: TargetPolicy, *, ranked: Sequence[tuple[float, float]] = ()) -> Report:
        """Reports all estimates of a policy with intervals.

        Args:
            policy: Policy to evaluate.
            ranked: Estimated return of each iteration that it was chosen from, by rollouts and by fitted Q evaluation.
        """
        judged, target, evaluated = self._judge(policy)
        found = judged.interval
        interval = Estimate(found.value, found.low, found.high)
        discounted = self._discounted_returns()
        behavior, plain = (_mean_with_interval(returns, self._seed) for returns in (discounted, self.data.returns))
        facts: dict[str, Any] = {"value": interval, "behaviour": behavior, "behaviour_return": plain}
        facts |= {"episodes": len(self.data.starts), "outside": found.outside, "fit_p_value": judged.fit_p_value}
        unsupported = judged.doubts(self._bounds)
        facts["refused"] = unsupported[0] if found.is_vacuous else ""
        doubts = unsupported + _doubt_the_choice(interval, behavior, ranked)
        if not self.data.has_probabilities:
            facts["estimators"] = {"dm": self._estimate(self._direct(target, evaluated)).within(self._bounds)}
            return Report(**facts, left_out=self._left_out(), warnings=doubts)
        q_values = np.mean([one.q_values for one in evaluated], axis=0)
        episodes = self._episodes(target[: len(self.data)], q_values)
        estimators = {name: self._estimate(make(episodes)) for name, make in ESTIMATORS.items()}
        estimators["magic"] = Estimate(estimate("magic", episodes), math.nan, math.nan)
        size = effective_sample_size(episodes.relative_weights[:, -1])
        unweighted = [name for name, one in estimators.items() if not math.isfinite(one.value)]
        unweighted += ["is"] if size == 0 else []  # its estimate is 0, with an interval of no width
        estimators = {name: one.within(self._bounds) for name, one in estimators.items() if name not in unweighted}
        least = self._bounds.low
        # Rounding may leave a return slightly below the least possible one.
        weighted = np.maximum(importance_sampling(_shifted(episodes, least)).plain, 0)
        bound = lower_bound(weighted) + least if np.isfinite(weighted).all() else least
        return Report(
            **facts,
            estimators=estimators,
            left_out=dict.fromkeys(unweighted, "the policy would not have taken the actions of any logged episode"),
            sample_size=size,
            lower_bound=bound,
            warnings=doubts + _warnings(size, len(discounted)),
        )

    def _direct(self, target: NDArray[np.float32], evaluated: Sequence[Evaluated]) -> Terms:
        """The direct method's terms: each episode's initial value, by the mean of the models."""
        states = self.data.states[self.data.starts]
        first = target[self.data.starts]
        values = []
        for model, one in zip(self._models, evaluated, strict=True):
            if self.data.num_actions is None:
                values.append(model.values_at(one, states, first))
            else:
                values.append((first * one.q_values[self.data.starts]).sum(axis=1))
        return Terms(np.mean(values, axis=0, dtype=np.float64))

    def _left_out(self) -> dict[str, str]:
        why = (
            "actions are continuous, and a deterministic policy takes each logged one with density 0"
            if self.data.num_actions is None
            else "the log has no action probabilities"
        )
        return {name: why for name in (*ESTIMATORS, "magic") if name != "dm"}

    def _interval(self, policy: TargetPolicy, evaluated: Sequence[Evaluated], *, rollouts: int) -> Interval:
        act = policy.actions if self.data.num_actions is None else policy.probabilities

        def values(states: NDArray[np.float32], actions: NDArray[np.floating]) -> NDArray[np.floating]:
            pairs = zip(self._models, evaluated, strict=True)
            return np.asarray(np.mean([model.values_at(one, states, actions) for model, one in pairs], axis=0))

        return self._intervals.estimate(act, values, rollouts=rollouts)

    def _estimate(self, terms: Terms) -> Estimate:
        value = float(terms.estimate(np.ones((1, len(terms.plain))))[0])
        return Estimate(value, *bootstrap(terms, seed=self._seed, resamples=_RESAMPLES))

    @staticmethod
    def _target(policy: TargetPolicy, data: Transitions) -> NDArray[np.float32]:
        if data.num_actions is None:
            return policy.actions(data.observations)
        return policy.probabilities(data.observations)

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


def _doubt_the_choice(value: Estimate, behavior: Estimate, ranked: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """Says where the estimates do not show that the chosen policy is better than the log's."""
    if value.low >= behavior.value:
        return ()
    agreement = rank_agreement(ranked) if len(ranked) >= _RANKED else math.nan
    differently = (
        f"rollouts and fitted Q evaluation rank the iterations differently (rank correlation {agreement:.2f}), and "
        if agreement < _SIGNAL
        else ""
    )
    return (
        f"{differently}the policy's lower bound {value.low:.2f} is below the log's own return {behavior.value:.2f}: "
        "prefer the policy that made the log, or behavior cloning",
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
