"""Off-policy evaluation: estimates the return of a target policy from the behavior policy's episodes.

Episodes end where they end: a shorter one counts as if it continued in a state without reward and kept its weight, so
that every estimator is exact for episodes of unequal length. All returns are discounted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_EPISODES = 2
_HEAVY = 1e3
_CHUNK = 64  # resamples at a time: their weights are a matrix


@dataclass(frozen=True)
class Episodes:
    """Episodes as rows, step after step, with zeros after their end.

    Attributes:
        rewards: (N, T) reward of each step.
        ratios: (N, T) target policy's probability of the logged action over the behavior policy's; 1 after the end.
        q_values: (N, T) model's value of the logged action; 0 after the end.
        state_values: (N, T) model's value of the state under the target policy; 0 after the end.
        lengths: (N,) steps of each episode.
        gamma: Discount per step, 0..1.
    """

    rewards: Floats
    ratios: Floats
    q_values: Floats
    state_values: Floats
    lengths: NDArray[np.int64]
    gamma: float

    @classmethod
    def from_steps(
        cls,
        lengths: NDArray[np.int64],
        *,
        gamma: float,
        rewards: NDArray[np.floating],
        target: NDArray[np.floating],
        behavior: NDArray[np.floating],
        q_values: NDArray[np.floating] | None = None,
        state_values: NDArray[np.floating] | None = None,
    ) -> Episodes:
        """Episodes from columns of steps, one episode after the other.

        Args:
            lengths: (N,) steps of each episode, at least 1.
            gamma: Discount per step.
            rewards: (S,) reward of each step.
            target: (S,) target policy's probability of the logged action.
            behavior: (S,) behavior policy's probability of the logged action.
            q_values: (S,) model's value of the logged action; zeros if None.
            state_values: (S,) model's value of the state; zeros if None.

        Raises:
            ValueError: A behavior probability is not above 0, or the columns do not fit the lengths.
        """
        behavior = np.asarray(behavior, np.float64)
        if len(behavior) != lengths.sum():
            raise ValueError(f"behavior: got {len(behavior)} steps; expected {lengths.sum()}, the sum of the lengths")
        if not (behavior > 0).all():
            step = int(np.argmin(behavior > 0))
            raise ValueError(
                f"behavior: got the probability {behavior[step]} at step {step}; expected above 0, as it happened"
            )
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]

        def as_rows(steps: NDArray[np.floating] | None, fill: float) -> Floats:
            rows = np.full(inside.shape, fill, np.float64)
            if steps is not None:
                rows[inside] = steps
            return rows

        ratios = as_rows(np.asarray(target, np.float64) / behavior, 1.0)
        return cls(as_rows(rewards, 0), ratios, as_rows(q_values, 0), as_rows(state_values, 0), lengths, gamma)

    @property
    def discounts(self) -> Floats:
        """(T,) discount of each step."""
        return np.asarray(self.gamma ** np.arange(self.rewards.shape[1]), np.float64)

    @property
    def returns(self) -> Floats:
        """(N,) discounted return of each episode as it was logged."""
        return np.asarray(self.rewards @ self.discounts)

    @cached_property
    def log_weights(self) -> Floats:
        """(N, T) logarithm of the product of the ratios up to and with each step; minus infinity for 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.cumsum(np.log(self.ratios), axis=1))

    @property
    def weights(self) -> Floats:
        """(N, T) that product; infinite where it is beyond float64."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.log_weights))

    @property
    def relative_weights(self) -> Floats:
        """(N, T) the same, each step's divided by its largest: enough where a step's sum is divided by."""
        largest = self.log_weights.max(axis=0)
        return np.asarray(np.exp(self.log_weights - np.where(np.isfinite(largest), largest, 0.0)))


@dataclass(frozen=True)
class Terms:
    """An estimator in the form that a resample needs: per episode, what is averaged or what is normalized.

    The estimate of episodes with counts c is `mean(c * plain) + sum_t (c @ numerators)_t / (c @ denominators)_t`.

    Attributes:
        plain: (N,) averaged over the episodes.
        numerators: (N, T) or None.
        denominators: (N, T), with `numerators`.
        unweighted: Contribution of a step at which all weights are 0: NaN where nothing is known then, 0 where a
            model has estimated the rest.
    """

    plain: Floats
    numerators: Floats | None = None
    denominators: Floats | None = None
    unweighted: float = math.nan

    def estimate(self, counts: Floats) -> Floats:
        """Returns (R,) estimates for (R, N) counts of each episode."""
        total = np.asarray(counts @ self.plain / counts.sum(axis=1))
        if self.numerators is not None and self.denominators is not None:
            below = counts @ self.denominators
            above = counts @ self.numerators
            nothing = np.full_like(above, self.unweighted)
            total = total + np.divide(above, below, out=nothing, where=below > 0).sum(axis=1)
        return total

    def deviations(self) -> Floats:
        """Returns (N,) how much each episode moves the estimate, times N: its influence, whose mean is 0."""
        found = self.plain - self.plain.mean()
        if self.numerators is None or self.denominators is None:
            return np.asarray(found)
        below = self.denominators.sum(axis=0)
        weighted = below > 0
        ratios = self.numerators.sum(axis=0)[weighted] / below[weighted]
        apart = self.numerators[:, weighted] - ratios * self.denominators[:, weighted]
        return np.asarray(found + len(found) * (apart / below[weighted]).sum(axis=1))


def importance_sampling(episodes: Episodes) -> Terms:
    """IS: each episode's return, weighted by how much likelier the target policy makes it.

    Source: Precup, Sutton & Singh 2000, Eligibility traces for off-policy policy evaluation, section 3.
    """
    return Terms(episodes.weights[:, -1] * episodes.returns)


def weighted_importance_sampling(episodes: Episodes) -> Terms:
    """WIS: the same, normalized by the sum of the weights.

    Source: Precup, Sutton & Singh 2000, section 3.
    """
    weight = episodes.relative_weights[:, -1]
    return Terms(np.zeros(len(weight)), (weight * episodes.returns)[:, None], weight[:, None])


def per_decision_importance_sampling(episodes: Episodes) -> Terms:
    """PDIS: each reward, weighted by the actions up to it.

    Source: Precup, Sutton & Singh 2000, section 4.
    """
    return Terms((episodes.weights * episodes.rewards) @ episodes.discounts)


def weighted_per_decision_importance_sampling(episodes: Episodes) -> Terms:
    """WPDIS: the same, each step normalized by the sum of its weights, ended episodes included.

    Source: Thomas 2015, Safe reinforcement learning (thesis), section 3.9 (CWPDIS).
    """
    weights = episodes.relative_weights
    return Terms(np.zeros(len(weights)), weights * episodes.rewards * episodes.discounts, weights)


def direct_method(episodes: Episodes) -> Terms:
    """DM: the model's value of the first states.

    Source: Le, Voloshin & Yue 2019, Batch policy learning under constraints, section 4 (fitted Q evaluation).
    """
    return Terms(episodes.state_values[:, 0])


def sequential_doubly_robust(episodes: Episodes) -> Terms:
    """SDR: the model's value, corrected by weighted differences between it and what was paid.

    Source: Jiang & Li 2016, Doubly robust off-policy value evaluation for reinforcement learning, eq. 10, unrolled.
    """
    differences = episodes.rewards + episodes.gamma * _following(episodes.state_values) - episodes.q_values
    corrections = (episodes.weights * differences) @ episodes.discounts
    return Terms(episodes.state_values[:, 0] + corrections)


def weighted_doubly_robust(episodes: Episodes) -> Terms:
    """WDR: SDR with the weights of each step normalized.

    Source: Thomas & Brunskill 2016, Data-efficient off-policy policy evaluation for reinforcement learning, eq. 6.
    """
    weights = episodes.relative_weights
    # The value of a state stands beside the weight of the step before it: w_{t-1} v_t.
    differences = episodes.rewards - episodes.q_values
    numerators = weights * (differences + episodes.gamma * _following(episodes.state_values)) * episodes.discounts
    return Terms(episodes.state_values[:, 0], numerators, weights, unweighted=0.0)


ESTIMATORS: Mapping[str, Callable[[Episodes], Terms]] = {
    "is": importance_sampling,
    "wis": weighted_importance_sampling,
    "pdis": per_decision_importance_sampling,
    "wpdis": weighted_per_decision_importance_sampling,
    "dm": direct_method,
    "sdr": sequential_doubly_robust,
    "wdr": weighted_doubly_robust,
}


def estimate(name: str, episodes: Episodes) -> float:
    """Returns the estimate of one estimator.

    Args:
        name: Name of an estimator in ESTIMATORS, or `magic`.
        episodes: Logged episodes with the ratios and model values of the target policy.
    """
    if name == "magic":
        return magic(episodes)
    return float(ESTIMATORS[name](episodes).estimate(np.ones((1, len(episodes.lengths))))[0])


def effective_sample_size(weights: Floats) -> float:
    """Effective sample size of (N,) weights, (sum w)² / sum w²: the number of equally weighted episodes they equal.

    Source: Kong 1992, A note on importance sampling using standardized weights.
    """
    largest = weights.max(initial=0.0)
    if not largest > 0 or not np.isfinite(largest):
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def bootstrap(terms: Terms, *, seed: int, resamples: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """Computes an interval of an estimator: the union of the bootstrap's percentiles and of Student's interval.

    Where few episodes have most of the weight, episodes drawn with replacement vary less than other logs would: the
    percentiles are too narrow. Student's interval has the degrees of freedom of the squared deviations, which are few
    then.

    Args:
        terms: Terms of the estimator.
        seed: Seed of the resamples.
        resamples: Number of bootstrap resamples.
        level: Confidence level of the interval, 0..1.

    Source: Efron & Tibshirani 1993, An introduction to the bootstrap, chapters 13 and 21; for importance
    sampling: Hanna, Stone & Niekum 2017, Bootstrapping with models.
    """
    values = np.concatenate([terms.estimate(counts) for counts in draw_counts(len(terms.plain), resamples, seed=seed)])
    if not np.isfinite(values).all():  # some resamples have no weight at all: no interval can be given
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    value = float(terms.estimate(np.ones((1, len(terms.plain))))[0])
    margin = student_margin(terms.deviations(), level=level)
    return float(min(low, value - margin)), float(max(high, value + margin))


def student_margin(deviations: Floats, *, level: float = 0.95) -> float:
    """Half the width of Student's interval of a mean, with fewer degrees of freedom where few values dominate.

    Args:
        deviations: (N,) deviations of the averaged values from their mean.
        level: Confidence level of the interval, 0..1.

    Source: degrees of freedom of a sum of squares: Satterthwaite 1946, An approximate distribution of estimates of
    variance components.
    """
    from scipy.stats import t

    count = len(deviations)
    largest = float(np.abs(deviations).max(initial=0.0))
    if count < _LEAST_EPISODES or not largest > 0:
        return 0.0
    squares = (deviations / largest) ** 2
    freedom = max(1.0, float(squares.sum() ** 2 / (squares**2).sum()) - 1)
    error = largest * float(np.sqrt(squares.sum() / (count - 1) / count))
    return float(t.ppf((1 + level) / 2, freedom)) * error


def draw_counts(episodes: int, resamples: int, *, seed: int) -> Iterator[Floats]:
    """(R, N) counts of each episode in each resample, some resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        draws = rng.integers(episodes, size=(rows, episodes)) + episodes * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=rows * episodes).reshape(rows, episodes).astype(np.float64)


def lower_bound(values: Floats, *, level: float = 0.95) -> float:
    """Computes a lower confidence bound on the mean, for any distribution of values of at least 0.

    Values above a threshold are cut to it, which can only lower the mean, and an empirical Bernstein inequality bounds
    that; the threshold is chosen on a twentieth of the values that the bound is not computed from.

    Args:
        values: (N,) importance-weighted returns, each at least 0.
        level: Confidence level, 0..1.

    Raises:
        ValueError: A value is below 0.

    Source: Thomas, Theocharous & Ghavamzadeh 2015, High-confidence off-policy evaluation, theorem 1.
    """
    if values.min(initial=0.0) < 0:
        raise ValueError(f"values: got {values.min():g}; expected at least 0. Subtract the least possible return first")
    part = max(2, len(values) // 20)
    if len(values) < part + _LEAST_EPISODES:
        return 0.0
    first = values[:part]
    rest = values[part:]
    thresholds = np.unique(np.concatenate([[1.0], np.quantile(values[:part], np.linspace(0.05, 1, 40)) + 1e-12]))
    best = max(thresholds, key=lambda at: _bernstein(first, at, count=len(rest), level=level))
    return max(0.0, _bernstein(rest, float(best), count=len(rest), level=level))


def _bernstein(values: Floats, threshold: float, *, count: int, level: float) -> float:
    """Maurer & Pontil's empirical Bernstein bound of values cut at a threshold, as if there were `count` of them."""
    cut = np.minimum(values, threshold)
    log = np.log(2 / (1 - level))
    spread = np.sqrt(2 * log * cut.var(ddof=1) / count)
    return float(cut.mean() - spread - 7 * threshold * log / (3 * (count - 1)))


def magic(episodes: Episodes, *, lengths: int = 8, resamples: int = 200, seed: int = 0) -> float:
    """MAGIC: the mixture of WDR's j-step returns whose estimated squared error is least.

    A j-step return uses weighted rewards for j steps and the model from there on; -1 steps is the model alone, all
    steps is WDR. The bias of each is how far it lies outside WDR's interval.

    Args:
        episodes: Logged episodes with the ratios and model values of the target policy.
        lengths: Number of values of j besides the two ends.
        resamples: Bootstrap resamples of WDR's interval.
        seed: Seed of the resamples.

    Source: Thomas & Brunskill 2016, Data-efficient off-policy policy evaluation, section 7 and algorithm 1.
    """
    weights = episodes.relative_weights
    count, steps = weights.shape
    total = weights.sum(axis=0)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    before = np.concatenate([np.full((count, 1), 1 / count), shares[:, :-1]], axis=1)
    corrections = (
        shares * (episodes.rewards - episodes.q_values) + before * episodes.state_values
    ) * episodes.discounts
    ahead = shares * _following(episodes.state_values) * episodes.discounts * episodes.gamma
    ends = np.unique(np.linspace(0, steps - 1, min(lengths + 1, steps)).round().astype(int))
    # (N, J) what each episode adds to each j-step return; the first column is the model alone.
    model = episodes.state_values[:, :1] / count
    sums = np.cumsum(corrections, axis=1)
    # After j steps the model's value replaces the corrections that would follow.
    partial = np.concatenate([model, sums[:, ends] + ahead[:, ends]], axis=1)
    returns = partial.sum(axis=0)
    if len(returns) == 1 or count < _LEAST_EPISODES:
        return float(returns[-1])
    covariance = np.atleast_2d(np.cov(partial, rowvar=False)) * count
    low, high = bootstrap(weighted_doubly_robust(episodes), seed=seed, resamples=resamples, level=0.5)
    bias = np.where(returns > high, returns - high, np.where(returns < low, returns - low, 0.0))
    return float(_least_error_mixture(covariance + np.outer(bias, bias)) @ returns)


def _least_error_mixture(errors: Floats) -> Floats:
    """Returns (J,) weights of at least 0 that sum to 1 and make x' E x least; E is positive semi-definite."""
    from scipy.optimize import nnls

    size = len(errors)
    values, vectors = np.linalg.eigh(errors / max(float(np.trace(errors)), 1e-300))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    # The sum as one more equation, heavy enough to hold.
    found, _ = nnls(np.vstack([root, np.full((1, size), _HEAVY)]), np.append(np.zeros(size), _HEAVY))
    return np.asarray(found / found.sum())


def _following(values: Floats) -> Floats:
    """Returns (N, T) values of the next step; 0 after the last."""
    return np.concatenate([values[:, 1:], np.zeros((len(values), 1))], axis=1)
