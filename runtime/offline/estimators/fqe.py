"""Fitted Q evaluation: the value of a policy from transitions of another one, by repeated regression.

The regression is ridge regression on random Fourier features of the standardized state, with weights for each action:
solved exactly at every step, so that nothing depends on an optimizer, and cheap enough for each checkpoint. The loss is
squared, not d3rlpy's Huber, which is biased wherever rewards are skewed; values are clipped to what returns can be.
On large logs the iteration begins at the solution without clipping, that of least-squares temporal differences; from
zero, it takes some multiples of 1 / (1 - gamma).

Source: Le, Voloshin & Yue 2019, Batch policy learning under constraints, algorithm 3; the features: Rahimi & Recht
2007, Random features for large-scale kernel machines; the resamples: Hao et al. 2021, Bootstrapping fitted
Q-evaluation for off-policy inference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.ope import draw_counts

_WAVES = 150
_LEAST_RIDGE = 1e-6
_DUAL_RIDGE = 0.03  # more than the values' own, as weights of few episodes are noisy and need not be exact
_HORIZONS = 8  # iterations at most, in units of 1 / (1 - gamma)
_LOOK_EVERY = 10
_SETTLED = 2e-3  # of the range of returns: how far from its limit a value may be
_ROWS_PER_WEIGHT = 20  # below which the iteration is cheap, and the linear equations are ill-conditioned

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Smoothness:
    """Smoothness assumed of a value function.

    Attributes:
        bandwidth: Bandwidth of the random Fourier features, in standard deviations times the square root of the
            number of inputs.
        ridge: Penalty on the squared weights, for each row.
    """

    bandwidth: float
    ridge: float


FINE, COARSE = Smoothness(0.75, 1e-4), Smoothness(1.25, 1e-5)


@dataclass(frozen=True)
class Evaluated:
    """The value function that fitted Q evaluation converged to.

    Attributes:
        start: Mean value of the initial states.
        q_values: (N, A) value of each action at each state; (N, 1) of the logged one where actions are continuous.
        weights: (A, D) weights of the regressions, for `values_at`.
    """

    start: float
    q_values: Singles
    weights: Singles


@dataclass(frozen=True)
class _Prepared:
    """Some states as the regressions see them.

    Attributes:
        features: (M, D) features; of the policy's action too, where actions are continuous.
        probabilities: (A, M) of the actions; None where they are continuous.
    """

    features: Singles
    probabilities: Singles | None

    def of_actions(self) -> list[Singles | None]:
        """Returns (M,) probabilities of each regression's action."""
        return [None] if self.probabilities is None else list(self.probabilities)

    def values(self, weights: Singles) -> Singles:
        """Returns (M, R) values with weights (A, D, R): over the actions, probability times value."""
        # A product for each action: OpenBLAS takes longer for one with a few columns.
        parts = [self.features @ weights[action] for action in range(len(weights))]
        if self.probabilities is not None:
            parts = [probability[:, None] * part for probability, part in zip(self.probabilities, parts, strict=True)]
        return np.asarray(sum(parts[1:], parts[0]), np.float32)


class FittedQEvaluation:
    """Evaluates policies on one log by fitted Q evaluation.

    Args:
        data: Transitions; those whose next state is unknown are left out of the regression.
        gamma: Discount per step, below 1.
        seed: Seed of the random features.
        smoothness: Smoothness of the value function.
        bounds: Limits of discounted returns, which clip the values; derived from the data's rewards if None.
    """

    def __init__(
        self,
        data: Transitions,
        *,
        gamma: float,
        seed: int,
        smoothness: Smoothness = FINE,
        bounds: ReturnBounds | None = None,
    ) -> None:
        self._data = data
        self._gamma = gamma
        self._ridge = smoothness.ridge
        self._bounds = bounds or bound_returns(data, gamma)
        self._is_discrete = data.num_actions is not None
        inputs = data.states if self._is_discrete else np.concatenate([data.states, data.actions], axis=1)
        # In double: a sum of millions in float32 loses its digits.
        mean, std = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
        self._mean = mean.astype(np.float32)
        self._std = (std + 1e-6).astype(np.float32)
        rng = np.random.default_rng(seed)
        scale = smoothness.bandwidth * np.sqrt(inputs.shape[1])
        self._frequencies = (rng.normal(size=(inputs.shape[1], _WAVES)) / scale).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32)

        usable = np.flatnonzero(data.next_rows != UNKNOWN)
        self._is_end = data.next_rows[usable] == TERMINAL
        self._next = np.where(self._is_end, 0, data.next_rows[usable])
        self._rewards = data.rewards[usable]
        self._episode = np.repeat(np.arange(len(data.starts)), data.lengths)[usable]
        logged = self._features(inputs)
        # Rows of each regression: those of its action, or all where the action is an input.
        chosen = data.actions[usable] if self._is_discrete else np.zeros(len(usable), np.int64)
        self._groups = [np.flatnonzero(chosen == action) for action in range(data.num_actions or 1)]
        self._designs = [logged[usable[group]] for group in self._groups]
        self._logged = logged
        self._states = self._features(data.observations) if self._is_discrete else logged

    def _features(self, inputs: Singles) -> Singles:
        """Returns (M, D) features: random Fourier features, the inputs themselves and a constant."""
        standardized = (inputs - self._mean) / self._std
        waves = np.cos(standardized @ self._frequencies + self._phases) * np.float32(np.sqrt(2 / _WAVES))
        return np.concatenate([waves, standardized, np.ones((len(inputs), 1), np.float32)], axis=1)

    def evaluate(self, target: Singles) -> Evaluated:
        """Estimates the value of a policy.

        Args:
            target: (M, A) action probabilities at each of the data's observations; of continuous actions, the (M, A)
                actions themselves.
        """
        weights = self._solve(target)
        starts = self._values(target, self._data.starts, weights)
        q_values = np.einsum("nd,ad->na", self._logged, weights[:, :, 0])
        return Evaluated(float(starts.mean(dtype=np.float64)), self._clip(q_values), weights[:, :, 0])

    def values_at(self, evaluated: Evaluated, states: Singles, actions: NDArray[np.floating]) -> Singles:
        """Returns (B,) values of actions at states that need not be in the log.

        Args:
            evaluated: What `evaluate` returned for the policy.
            states: (B, O) states.
            actions: (B,) numbers of discrete actions, or (B, A) continuous ones.
        """
        if not self._is_discrete:
            features = self._features(np.concatenate([states, actions.astype(np.float32)], axis=1))
            return self._clip(features @ evaluated.weights[0])
        return self._clip(np.einsum("bd,bd->b", self._features(states), evaluated.weights[actions.astype(int)]))

    def correct(
        self, evaluated: Evaluated, target: Singles, other: Transitions, other_target: Singles
    ) -> NDArray[np.float64]:
        """Returns (E,) what each episode that this was not fitted to corrects of the estimate: its weighted residuals.

        The weight of a Bellman residual is that of least-squares temporal differences: how much the value of the
        initial states changes with the reward of a step like it.

        Args:
            evaluated: What `evaluate` returned for the policy.
            target: (M, A) action probabilities or actions, as for `evaluate`.
            other: Other episodes.
            other_target: (M', A) action probabilities or actions at their observations.

        Source: Kallus & Uehara 2020, Double reinforcement learning for efficient off-policy evaluation; the weights:
        Uehara, Huang & Jiang 2020, Minimax weight and Q-function learning, with linear functions.
        """
        dual = self._dual(target)
        shape = evaluated.weights.shape
        usable = np.flatnonzero(other.next_rows != UNKNOWN)
        is_end = other.next_rows[usable] == TERMINAL
        values = self._state_values(other, other_target, np.where(is_end, 0, other.next_rows[usable]), evaluated)
        values[is_end] = 0
        features, groups = self._logged_features(other)
        groups = groups[usable]
        q_values = self._clip(np.einsum("nd,nd->n", features[usable], evaluated.weights[groups]))
        residuals = other.rewards[usable] + self._gamma * values - q_values
        weights = np.einsum("nd,nd->n", features[usable], dual.reshape(shape)[groups]) * len(self._data.starts)
        weights = np.maximum(weights, 0)  # they estimate a ratio of two distributions of steps
        episode = np.repeat(np.arange(len(other.starts)), other.lengths)[usable]
        return np.bincount(episode, weights * residuals, len(other.starts)).astype(np.float64)

    def _dual(self, target: Singles) -> NDArray[np.float64]:
        """Returns (A * D,) how much the value of the initial states changes with each moment of the rewards."""
        following = self._prepare(target, self._next)
        first = self._prepare(target, self._data.starts)
        moments = self._moments(following, np.where(self._is_end, 0, self._gamma), ridge=_DUAL_RIDGE, constant=1.0)
        means = [
            first.features.mean(axis=0) if probability is None else (first.features * probability[:, None]).mean(axis=0)
            for probability in first.of_actions()
        ]
        solution = np.linalg.lstsq(moments.T, np.concatenate(means).astype(np.float64), rcond=1e-8)[0]
        return np.asarray(solution, np.float64)

    def _moments(
        self, following: _Prepared, discounts: NDArray[np.floating], *, ridge: float, constant: float
    ) -> NDArray[np.float64]:
        """Returns (A * D, A * D) coefficients of the linear equations whose solution is the value's weights.

        Args:
            following: The next states.
            discounts: (N,) discount of the next state's value; 0 where it does not depend on the weights.
            ridge: Penalty of the weights, for each row.
            constant: Least penalty of the constant, in all.
        """
        width = self._logged.shape[1]
        moments = np.zeros((width * len(self._groups),) * 2)
        for action, (design, group) in enumerate(zip(self._designs, self._groups, strict=True)):
            rows = slice(action * width, (action + 1) * width)
            penalty = np.full(width, ridge * max(1, len(design)))
            penalty[-1] = max(constant, _LEAST_RIDGE * len(design))
            moments[rows, rows] += design.T @ design + np.diag(penalty)
            features = following.features[group]
            for other, probability in enumerate(following.of_actions()):
                scale = discounts[group] if probability is None else discounts[group] * probability[group]
                seen = np.flatnonzero(scale)
                ahead = features[seen] * scale[seen].astype(np.float32)[:, None]
                moments[rows, other * width : (other + 1) * width] -= design[seen].T @ ahead
        return moments

    def _guess(self, following: _Prepared) -> Singles | None:
        """Returns (A, D, 1) weights of the fixed point without clipping; None where they are no better than zeros."""
        width = self._logged.shape[1]
        if len(self._rewards) < _ROWS_PER_WEIGHT * width * len(self._groups):
            return None
        discounts = np.where(self._is_end, 0, self._gamma)
        moments = self._moments(following, discounts, ridge=self._ridge, constant=_LEAST_RIDGE)
        sums = [design.T @ self._rewards[group] for design, group in zip(self._designs, self._groups, strict=True)]
        try:
            solution = np.linalg.solve(moments, np.concatenate(sums).astype(np.float64))
        except np.linalg.LinAlgError:
            return None
        weights = solution.reshape(len(self._groups), width, 1).astype(np.float32)
        return weights if np.isfinite(weights).all() else None

    def _logged_features(self, data: Transitions) -> tuple[Singles, NDArray[np.int64]]:
        """Returns (N, D) features of each logged step, and the regression (N,) that it belongs to."""
        if self._is_discrete:
            return self._features(data.states), data.actions
        return self._features(np.concatenate([data.states, data.actions], axis=1)), np.zeros(len(data), np.int64)

    def _state_values(
        self, data: Transitions, target: Singles, rows: NDArray[np.int64], evaluated: Evaluated
    ) -> NDArray[np.float64]:
        """Returns the policy's value (rows,) at some observations of any data."""
        states = data.observations[rows]
        if not self._is_discrete:
            return np.asarray(self.values_at(evaluated, states, target[rows]), np.float64)
        values = self._features(states) @ evaluated.weights.T
        return np.asarray(self._clip((target[rows] * values).sum(axis=1)), np.float64)

    def resample(self, target: Singles, *, resamples: int, seed: int) -> NDArray[np.float64]:
        """Returns (R,) bootstrap values of a policy: each draws episodes with replacement and repeats the regression.

        Args:
            target: (M, A) action probabilities or actions, as for `evaluate`.
            resamples: Number R of bootstrap resamples.
            seed: Seed of the resamples.
        """
        found = []
        solved = self._solve(target)
        for counts in draw_counts(len(self._data.starts), resamples, seed=seed):
            weights = self._solve(target, counts, begin=solved)
            starts = self._values(target, self._data.starts, weights)
            found.append(np.einsum("re,er->r", counts, starts) / counts.sum(axis=1))
        return np.concatenate(found)

    def _solve(
        self, target: Singles, counts: NDArray[np.float64] | None = None, *, begin: Singles | None = None
    ) -> Singles:
        """Returns (A, D, R) weights of the regressions at their fixed point, for each resample.

        Args:
            target: (M, A) action probabilities or actions, as for `evaluate`.
            counts: (R, E) how often each resample holds each episode; once each if None.
            begin: Weights (A, D, 1) to begin from, near which the fixed point is; `_guess` finds them if None.
        """
        inverses = [
            self._invert(design, group, counts) for design, group in zip(self._designs, self._groups, strict=True)
        ]
        resamples = 1 if counts is None else len(counts)
        rows = None if counts is None else counts[:, self._episode].T.astype(np.float32)
        weights = np.zeros((len(self._groups), self._logged.shape[1], resamples), np.float32)
        following = self._prepare(target, self._next)
        first = self._prepare(target, self._data.starts)
        guess = self._guess(following) if begin is None else begin
        weights += 0 if guess is None else guess
        before = np.full(resamples, np.inf)
        # Values approach their limit by a factor gamma a step: what is left is that many times the last change.
        settled = _SETTLED * (self._bounds.high - self._bounds.low) * min(1.0, _LOOK_EVERY * (1 - self._gamma))
        for iteration in range(int(_HORIZONS / (1 - self._gamma)) + _LOOK_EVERY):
            targets = self._gamma * self._clip(following.values(weights))
            targets[self._is_end] = 0
            targets += self._rewards[:, None]
            # Regressing on deviations from the mean is equivalent (the constant has no penalty) and keeps precision.
            mean = targets.mean(axis=0)
            targets -= mean
            if rows is not None:
                targets *= rows
            for action, (design, group) in enumerate(zip(self._designs, self._groups, strict=True)):
                if not len(group):  # never logged: its weights stay 0
                    weights[action, -1] = self._bounds.low
                    continue
                moments = design.T @ targets[group]
                weights[action] = np.matmul(inverses[action], moments.T[:, :, None])[:, :, 0].T
                weights[action, -1] += mean
            if iteration % _LOOK_EVERY == _LOOK_EVERY - 1:
                now = self._clip(first.values(weights)).mean(axis=0)
                if np.abs(now - before).max() <= settled:  # both 0 where only one return is possible
                    break
                before = now
        return weights

    def _invert(self, design: Singles, group: NDArray[np.int64], counts: NDArray[np.float64] | None) -> Singles:
        """Returns (R, D, D) inverse of each regression's regularized moments."""
        width = design.shape[1]
        weighted = [None] if counts is None else list(counts[:, self._episode[group]].astype(np.float32))
        found = np.empty((len(weighted), width, width), np.float32)
        for number, weight in enumerate(weighted):
            moments = design.T @ (design if weight is None else design * weight[:, None])
            ridge = np.full(width, self._ridge * max(1, len(design)))
            # The constant has no penalty, which would shrink every return towards 0 at each iteration.
            ridge[-1] = _LEAST_RIDGE
            found[number] = np.linalg.inv(moments.astype(np.float64) + np.diag(ridge))
        return found

    def _prepare(self, target: Singles, rows: NDArray[np.int64]) -> _Prepared:
        """Returns the features of some rows, with the actions' probabilities there."""
        if not self._is_discrete:
            chosen = np.concatenate([self._data.observations[rows], target[rows]], axis=1)
            return _Prepared(self._features(chosen), None)
        return _Prepared(self._states[rows], np.ascontiguousarray(target[rows].T))

    def _values(self, target: Singles, rows: NDArray[np.int64], weights: Singles) -> Singles:
        return self._clip(self._prepare(target, rows).values(weights))

    def _clip(self, values: NDArray[np.floating]) -> Singles:
        """Returns the values within the bounds of returns."""
        return np.asarray(np.clip(values, self._bounds.low, self._bounds.high), np.float32)
