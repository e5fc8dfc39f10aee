"""Intervals of a policy's value that are measured beside the one in use: the feasible set, and pessimistic regressions.

Both need no second half of the episodes and no rollouts: what a log does not show widens them by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.fqe import FINE, FittedQEvaluation, Smoothness

Floats = NDArray[np.float64]

_LEVEL = 0.95
_SIGNS = 500  # draws of the multiplier bootstrap
_INSTRUMENTS = Smoothness(0.5, FINE.ridge)
_JITTER = 1e-3  # share of the moments' mean variance that is added to each
_FREE = 1e-4  # weight of the constants in the norm of the weights
_SETTLED = 1e-4  # share of the range of returns
_HORIZONS = 8  # iterations at most, in units of 1 / (1 - gamma)


@dataclass(frozen=True)
class Problem:
    """A policy's value as linear moment conditions, with the features of fitted Q evaluation.

    Attributes:
        features: (N, D) features of each logged step, in the block of its action.
        following: (N, D) mean features of the policy's action in the next state; 0 where there is none.
        rewards: (N,) rewards.
        episodes: (N,) number of each step's episode.
        start: (D,) mean features of the policy's action in the initial states.
        fitted: (D,) weights by fitted Q evaluation.
        width: Size of an action's block of features, whose last one is the constant.
        gamma: Discount per step.
    """

    features: Floats
    following: Floats
    rewards: Floats
    episodes: NDArray[np.int64]
    start: Floats
    fitted: Floats
    width: int
    gamma: float

    @property
    def residuals(self) -> Floats:
        """(N,) Bellman residuals of the fitted weights."""
        return np.asarray(self.rewards - (self.features - self.gamma * self.following) @ self.fitted)


def make_problem(model: FittedQEvaluation, target: NDArray[np.float32], data: Transitions, gamma: float) -> Problem:
    """Makes the moment conditions of a policy from a regression of discrete actions."""
    actions = model._data.num_actions
    assert actions is not None
    following = _blocks(model._states[model._next], target[model._next])
    following[model._is_end] = 0
    return Problem(
        _logged_blocks(model, actions),
        following,
        model._rewards.astype(np.float64),
        model._episode,
        _blocks(model._states[data.starts], target[data.starts]).mean(axis=0),
        model.evaluate(target).weights.ravel().astype(np.float64),
        model._logged.shape[1],
        gamma,
    )


def _blocks(features: NDArray[np.float32], chances: NDArray[np.floating]) -> Floats:
    """Returns (N, A D) features weighted by the (N, A) probabilities of the actions."""
    return np.asarray((chances[:, :, None] * features[:, None, :]).reshape(len(features), -1), np.float64)


def _logged_blocks(model: FittedQEvaluation, actions: int) -> Floats:
    """Returns (N, A D) features of the usable logged steps, in the blocks of their actions."""
    width = model._logged.shape[1]
    found = np.zeros((len(model._rewards), actions * width))
    for action, (design, group) in enumerate(zip(model._designs, model._groups, strict=True)):
        found[group, action * width : (action + 1) * width] = design
    return found


def bound_by_feasible_set(
    problem: Problem, instruments: Floats, *, norms: tuple[float, ...], seed: int
) -> list[tuple[float, float]]:
    """Returns the least and the largest value over all weights that the log's episodes do not reject.

    Weights are rejected where the mean product of instruments and Bellman residuals is larger than its noise, which
    the signs of whole episodes' sums show. Weights whose norm is above a limit are left out, as the values of states
    that the log does not have are limited by nothing else.

    Args:
        problem: The moment conditions.
        instruments: (N, M) features to weigh the residuals by.
        norms: Limits of the norm, in norms of the fitted weights: an interval for each.
        seed: Seed of the signs.

    Returns:
        An interval for each norm; NaN where no such weights fit the log.

    Source: Feng et al. 2020, Accountable off-policy evaluation with kernel Bellman statistics, for the set; Dai et al.
    2020, CoinDICE, for moments and a threshold from their own noise.
    """
    count, episodes = len(problem.rewards), int(problem.episodes.max()) + 1
    sums = np.zeros((episodes, instruments.shape[1]))
    np.add.at(sums, problem.episodes, instruments * problem.residuals[:, None])
    noise = sums.T @ sums / count
    noise += _JITTER * np.trace(noise) / len(noise) * np.eye(len(noise))
    quadratic = sums @ np.linalg.solve(noise, sums.T) / count
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_SIGNS, episodes))
    limit = float(np.quantile(np.einsum("se,ef,sf->s", signs, quadratic, signs, optimize=True), _LEVEL))

    slopes = instruments.T @ (problem.features - problem.gamma * problem.following) / count
    constants = instruments.T @ problem.rewards / count
    solved = np.linalg.solve(noise, np.column_stack([slopes, constants]))
    curvature, linear = count * slopes.T @ solved[:, :-1], count * slopes.T @ solved[:, -1]
    offset = count * float(constants @ solved[:, -1]) - limit
    weights = np.ones(len(problem.start))
    weights[problem.width - 1 :: problem.width] = _FREE  # the constants
    eigenvalues, vectors = eigh((curvature + curvature.T) / 2, np.diag(weights))
    eigenvalues = np.maximum(eigenvalues, 0)
    size = float(problem.fitted**2 @ weights)
    found = []
    for norm in norms:
        radius = norm**2 * size
        high, low = (
            sign * bound_linear(vectors.T @ (sign * problem.start), vectors.T @ linear, eigenvalues, offset, radius)
            for sign in (1, -1)
        )
        found.append((low, high) if low <= high else (math.nan, math.nan))
    return found


def bound_linear(start: Floats, linear: Floats, curvature: Floats, offset: float, radius: float) -> float:
    """Bounds a linear function over two ellipsoids by the least of Lagrange's upper bounds.

    Every pair of multipliers gives an upper bound, so that a search that ends early errs to the safe side.

    Args:
        start: (D,) the linear function, where both quadratic forms are diagonal.
        linear: (D,) linear part of the first constraint, w'Hw - 2 h'w + offset <= 0.
        curvature: (D,) diagonal of H.
        offset: Its constant.
        radius: The second constraint, w'w <= radius.
    """

    def bound(logs: Any) -> float:
        first, second = np.exp(np.clip(logs, -60, 60))
        top = (start + 2 * first * linear) ** 2 / (first * curvature + second)
        return float(top.sum() / 4 - first * offset + second * radius)

    grid = [(first, second) for first in np.arange(-20, 21, 2.0) for second in np.arange(-20, 21, 2.0)]
    best = min(grid, key=bound)
    return float(minimize(bound, best, method="Nelder-Mead", options={"maxiter": 400}).fun)


def bound_by_pessimism(
    model: FittedQEvaluation,
    target: NDArray[np.float32],
    data: Transitions,
    *,
    gamma: float,
    bounds: ReturnBounds,
    problem: Problem,
    has_bias: bool,
) -> tuple[float, float]:
    """Returns the value by two regressions whose values are lowered and raised by their own uncertainty at each step.

    Args:
        model: The regressions.
        target: (M, A) probabilities of the policy's actions at each of the data's observations.
        data: The episodes.
        gamma: Discount per step.
        bounds: Limits of discounted returns.
        problem: Its moment conditions.
        has_bias: Whether the ridge's bias is part of the uncertainty, as in the source, or noise alone.

    Source: Jin, Yang & Wang 2021, Is pessimism provably efficient for offline RL?, algorithm 2, for a given policy.
    """
    inverses = [
        model._invert(design, group, None)[0] for design, group in zip(model._designs, model._groups, strict=True)
    ]
    noise = float(problem.residuals.std()) * math.sqrt(2 * math.log(2 / (1 - _LEVEL)))
    fitted = problem.fitted.reshape(-1, problem.width)
    scales = [
        noise + has_bias * math.sqrt(model._ridge * len(group)) * float(np.linalg.norm(fitted[action, :-1]))
        for action, group in enumerate(model._groups)
    ]
    ends = []
    for sign in (-1, 1):
        value = _solve_shifted(model, target, data, inverses, scales, sign=sign, gamma=gamma, bounds=bounds)
        ends.append(value)
    return ends[0], ends[1]


def _solve_shifted(
    model: FittedQEvaluation,
    target: NDArray[np.float32],
    data: Transitions,
    inverses: list[NDArray[np.float32]],
    scales: list[float],
    *,
    sign: int,
    gamma: float,
    bounds: ReturnBounds,
) -> float:
    """Returns the mean value of the initial states where each action's value is shifted by its uncertainty."""
    ahead, first = model._states[model._next], model._states[data.starts]

    def shifts(features: NDArray[np.float32]) -> NDArray[np.float32]:
        variances = [np.einsum("nd,de,ne->n", features, inverse, features, optimize=True) for inverse in inverses]
        return np.stack(
            [sign * scale * np.sqrt(np.maximum(one, 0)) for scale, one in zip(scales, variances, strict=True)], axis=1
        )

    def values(
        features: NDArray[np.float32], chances: NDArray[np.floating], shift: NDArray[np.float32], weights: Any
    ) -> Floats:
        shifted = np.clip(features @ weights.T + shift, bounds.low, bounds.high)
        return np.asarray((chances * shifted).sum(axis=1), np.float64)

    shift_ahead, shift_first = shifts(ahead), shifts(first)
    weights = np.zeros((len(inverses), model._logged.shape[1]), np.float32)
    before = math.inf
    for _ in range(int(_HORIZONS / (1 - gamma))):
        targets = gamma * values(ahead, target[model._next], shift_ahead, weights)
        targets[model._is_end] = 0
        targets += model._rewards
        mean = targets.mean()
        for action, (design, group, inverse) in enumerate(zip(model._designs, model._groups, inverses, strict=True)):
            weights[action] = inverse @ (design.T @ (targets[group] - mean).astype(np.float32))
            weights[action, -1] += mean
        now = float(values(first, target[data.starts], shift_first, weights).mean())
        if abs(now - before) <= _SETTLED * (1 - gamma) * (bounds.high - bounds.low):
            break
        before = now
    return now


def candidate_intervals(evaluator: Any, policy: Any, gamma: float) -> dict[str, tuple[float, float]]:
    """Returns the intervals of all candidates by name, clipped to the possible returns."""
    data, bounds, seed = evaluator.data, evaluator._bounds, evaluator._seed
    target = evaluator._target(policy, data)
    model = evaluator._models[0]
    problem = make_problem(model, target, data, gamma)
    finer = FittedQEvaluation(data, gamma=gamma, seed=seed + 100, smoothness=_INSTRUMENTS, bounds=bounds)
    norms = (1.0, 2.0, 4.0)
    sets = bound_by_feasible_set(problem, _logged_blocks(finer, data.num_actions), norms=norms, seed=seed)
    found = {
        f"feasible set, norm {norm:g}": (bounds.low, bounds.high) if math.isnan(ends[0]) else ends
        for norm, ends in zip(norms, sets, strict=True)
    }
    for name, has_bias in (("pessimistic, noise alone", False), ("pessimistic", True)):
        found[name] = bound_by_pessimism(
            model, target, data, gamma=gamma, bounds=bounds, problem=problem, has_bias=has_bias
        )
    return {name: (bounds.clip(low), bounds.clip(high)) for name, (low, high) in found.items()}
