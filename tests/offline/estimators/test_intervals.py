"""Intervals and the log's model, on decision processes whose values are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.known_values import Grid
from runtime.offline.data.transitions import TERMINAL, Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.fit import FitTest
from runtime.offline.estimators.intervals import IntervalEstimator, describe
from runtime.offline.estimators.support import LogModel
from runtime.offline.selection import rank_agreement
from tests.offline.test_bcq import one_thread

__all__ = ["one_thread"]  # a fixture that acts by itself


def right_and_down(states: Any) -> Any:
    """Walks towards the grid's goal, mixed with the logging policy: probabilities (B, 4)."""
    ahead = np.eye(4)[np.where(states[:, 0] > states[:, 1], 2, 1)]
    return (0.3 * ahead + 0.7 * Grid().behave(states)).astype(np.float32)


def nothing(states: Any, _: Any) -> Any:
    """Values of 0 outside of the log."""
    return np.zeros(len(states))


def test_the_grids_exact_value_is_the_mean_of_its_episodes() -> None:
    grid = Grid()
    log = grid.log(4000, seed=0)
    returns = log.returns * grid.gamma ** (log.lengths - 1)
    assert grid.value(grid.behave).discounted == pytest.approx(
        returns.mean(), abs=4 * returns.std() / np.sqrt(len(returns))
    )


def test_intervals_on_the_grid_contain_the_exact_value() -> None:
    grid = Grid()
    truth = grid.value(right_and_down).discounted
    covered = 0
    for seed in range(8):
        log = grid.log(100, seed=seed)
        estimator = IntervalEstimator(log, gamma=grid.gamma, seed=seed, bounds=ReturnBounds(0, 1))
        found = estimator.estimate(right_and_down, nothing)
        assert 0 <= found.low <= found.high <= 1
        covered += found.low <= truth <= found.high
    assert covered >= 7


def test_an_action_that_the_log_does_not_have_leaves_it_at_once() -> None:
    log = make_corridor(never=2)

    def always(states: Any) -> Any:
        return np.tile(np.array([[0, 0, 1]], np.float32), (len(states), 1))

    model = LogModel(log, seed=0)
    assert model.roll(always, gamma=0.9, draws=2, rollouts=20, seed=0).outside == 1
    bounds = ReturnBounds(0, 10)
    found = IntervalEstimator(log, gamma=0.9, seed=0, bounds=bounds).estimate(
        always, lambda states, actions: np.full(len(states), 3.0)
    )
    assert (found.low, found.value, found.high, found.pessimistic) == (0, 3, 10, 0)
    assert found.is_vacuous
    assert "this log supports no interval: any possible return, 0.00 to 10.00" in describe(found, bounds=bounds)[0]


def test_rollouts_of_the_logging_policy_stay_inside_and_return_what_it_returned() -> None:
    log = make_corridor(never=2)

    def logged(states: Any) -> Any:
        return np.tile(np.array([[0.5, 0.5, 0]], np.float32), (len(states), 1))

    rolled = LogModel(log, seed=0).roll(logged, gamma=0.9, draws=8, rollouts=100, seed=0)
    assert rolled.outside == 0
    assert 30 < rolled.sample_size <= 60
    steps = np.arange(len(log)) - np.repeat(log.starts, log.lengths)
    returns = np.add.reduceat(log.rewards * 0.9**steps, log.starts)
    assert rolled.rewards.mean() == pytest.approx(returns.mean(), abs=0.3)


def make_corridor(*, never: int) -> Transitions:
    """A walk along places 0 to 5, by action 1 and not by action 0; leaving pays 1 a step until place 5 ends it."""
    rng = np.random.default_rng(0)
    places: list[list[float]] = []
    actions: list[int] = []
    rewards: list[float] = []
    following: list[int] = []
    starts: list[int] = []
    for _ in range(60):
        starts.append(len(places))
        place = 0
        while place < 5:
            action = int(rng.integers(2))
            places.append([float(place)])
            actions.append(action)
            rewards.append(float(action))
            place += action
            following.append(TERMINAL if place == 5 else len(places))
    count = len(places)
    chances = np.full((count, 3), 0.5, np.float32)
    chances[:, never] = 0
    return Transitions(
        np.array(places, np.float32),
        np.array(actions),
        np.array(rewards, np.float32),
        np.array(following),
        np.array(starts),
        chances,
        3,
    )


def test_two_estimators_agree_by_their_ranks() -> None:
    noise = [tuple(pair) for pair in np.random.default_rng(0).normal(10, 1, (400, 2)).tolist()]
    assert abs(rank_agreement(noise)) < 0.2
    assert rank_agreement([(float(value), float(value**3)) for value in range(10)]) == pytest.approx(1)
    assert rank_agreement([(1.0, 2.0), (1.0, 3.0)]) == 0


def test_fitted_q_evaluation_is_rejected_where_bounds_clip_true_values_alone() -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform(0, 1, (2000, 1)).astype(np.float32)
    rewards = states[:, 0] + rng.normal(0, 0.2, 2000).astype(np.float32)
    chances = np.full((2000, 2), 0.5, np.float32)
    ends, starts = np.full(2000, TERMINAL), np.arange(2000)
    data = Transitions(states, rng.integers(2, size=2000), rewards, ends, starts, chances, 2)

    def p_value(most: float) -> float:
        test = FitTest(data, gamma=0.9, seed=0, bounds=ReturnBounds(-1, most))
        return test.p_value(lambda half: np.tile(np.array([[0, 1]], np.float32), (len(half), 1)))

    assert p_value(2) > 0.05
    assert p_value(0.3) < 0.001
