"""Intervals and the log's model, on decision processes whose values are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.interval_candidates import bound_by_pessimism, bound_linear, make_problem
from benchmarks.known_values import Grid
from runtime.offline.data.transitions import TERMINAL, Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.fqe import FittedQEvaluation
from runtime.offline.estimators.intervals import IntervalEstimator, describe
from runtime.offline.estimators.support import LogModel
from runtime.offline.selection import rank_agreement, selection_optimism
from tests.offline.test_bcq import one_thread

__all__ = ["one_thread"]  # a fixture that acts by itself


def right_and_down(states: Any) -> Any:
    """Walks towards the grid's goal, mixed with the logging policy: probabilities (B, 4)."""
    ahead = np.eye(4)[np.where(states[:, 0] > states[:, 1], 2, 1)]
    return (0.3 * ahead + 0.7 * Grid().behave(states)).astype(np.float32)


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
        estimator = IntervalEstimator(log, log=log, gamma=grid.gamma, seed=seed, bounds=ReturnBounds(0, 1))
        found = estimator.estimate(lambda data: right_and_down(data.observations), right_and_down, value=truth)
        assert 0 <= found.low <= found.high <= 1
        covered += found.low <= truth <= found.high
    assert covered >= 7


def test_an_action_that_the_log_does_not_have_leaves_it_at_once() -> None:
    log = make_corridor(never=2)

    def always(states: Any) -> Any:
        return np.tile(np.array([[0, 0, 1]], np.float32), (len(states), 1))

    model = LogModel(log, seed=0)
    assert model.roll(always, gamma=0.9, rollouts=20, seed=0).outside == 1
    bounds = ReturnBounds(0, 10)
    found = IntervalEstimator(log, log=log, gamma=0.9, seed=0, bounds=bounds).estimate(
        lambda data: always(data.observations), always, value=3.0
    )
    assert (found.low, found.high) == (0, 10)
    assert found.is_vacuous
    assert "this log supports no interval: any possible return, 0.00 to 10.00" in describe(found, bounds=bounds)[0]


def test_rollouts_of_the_logging_policy_stay_inside_and_return_what_it_returned() -> None:
    log = make_corridor(never=2)

    def logged(states: Any) -> Any:
        return np.tile(np.array([[0.5, 0.5, 0]], np.float32), (len(states), 1))

    rolled = LogModel(log, seed=0).roll(logged, gamma=0.9, rollouts=400, seed=0)
    assert rolled.outside == 0
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


def test_the_choice_of_noise_is_optimistic_and_its_halves_do_not_agree() -> None:
    rng = np.random.default_rng(0)
    noise = [tuple(pair) for pair in rng.normal(10, 1, (400, 2)).tolist()]
    # The largest of 400 draws is about 3 deviations above the mean; the choice by both halves less by half.
    assert selection_optimism(noise, logged=10.0) == pytest.approx(1.5, abs=0.6)
    assert abs(rank_agreement(noise)) < 0.2
    same = [(float(value), float(value)) for value in range(10)]
    assert selection_optimism(same, logged=0.0) == 0
    assert rank_agreement(same) == pytest.approx(1)


def test_the_bound_of_a_linear_function_over_two_ellipsoids_is_the_largest_point_of_both() -> None:
    """Against points on a fine grid of the plane."""
    axis = np.linspace(-3, 3, 601)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for start, linear, curvature, offset, radius in (
        ([1.0, 0.5], [1.0, 2.0], [4.0, 1.0], 1.0, 2.0),  # both constraints hold it
        ([1.0, 0.5], [1.0, 2.0], [4.0, 0.0], 1.0, 4.0),  # the second direction is limited by the norm alone
        ([0.3, -1.0], [0.0, 0.0], [1.0, 9.0], -1.0, 50.0),  # the norm limits nothing
    ):
        fits = (points**2 @ curvature - 2 * points @ linear + offset <= 0) & ((points**2).sum(axis=1) <= radius)
        expected = (points[fits] @ start).max()
        found = bound_linear(np.array(start), np.array(linear), np.array(curvature), offset, radius)
        assert found == pytest.approx(expected, abs=0.02)


def test_pessimism_and_optimism_enclose_the_regressions_own_value() -> None:
    log = Grid().log(100, seed=0)
    bounds = ReturnBounds(0, 1)
    model = FittedQEvaluation(log, gamma=0.99, seed=0, bounds=bounds)
    target = right_and_down(log.observations)
    problem = make_problem(model, target, log, 0.99)
    value = model.evaluate(target).start
    assert problem.start @ problem.fitted == pytest.approx(value, abs=0.02)
    narrow, wide = (
        bound_by_pessimism(model, target, log, gamma=0.99, bounds=bounds, problem=problem, has_bias=has_bias)
        for has_bias in (False, True)
    )
    assert 0 <= wide[0] <= narrow[0] < value < narrow[1] <= wide[1] <= 1
