"""Judging policies from a log: fitted Q evaluation by closed form, the estimated behavior policy, and the choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.offline.estimators import fqe
from runtime.offline.estimators.behavior import estimate_behavior
from runtime.offline.estimators.bounds import bound_returns
from runtime.offline.estimators.fqe import COARSE, FINE, FittedQEvaluation
from runtime.offline.selection import PolicyEvaluator, choose
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import NetworkPolicy
from tests.offline.test_bcq import make_data, one_thread

__all__ = ["one_thread"]  # a fixture that acts by itself


def make_chain(*, count: int, seed: int, end: float = 0.1) -> tuple[Transitions, Any]:
    """A decision process of 4 states, as one-hot features, under uniform actions; and what solves it.

    Action 1 moves on in the circle, action 0 stays; the reward is the state's number where one moves. An episode ends
    with a probability that is the same everywhere.
    """
    rng = np.random.default_rng(seed)
    state = 0
    states = []
    actions = []
    rewards = []
    ends = []
    for _ in range(count):
        action = int(rng.integers(2))
        ended = rng.random() < end
        states.append(state)
        actions.append(action)
        rewards.append(float(state * action))
        ends.append(ended)
        state = 0 if ended else (state + action) % 4
    ends[-1] = True
    following = np.where(ends, TERMINAL, np.arange(1, count + 1))
    starts = np.append(0, np.flatnonzero(ends)[:-1] + 1)
    data = Transitions(
        np.eye(4, dtype=np.float32)[states],
        np.array(actions),
        np.array(rewards, np.float32),
        following,
        starts,
        np.full((count, 2), 0.5, np.float32),
        2,
    )

    def solve(move: Any, gamma: float) -> Any:
        """(4,) values of the policy that moves with these probabilities."""
        forward = np.roll(np.eye(4), 1, axis=1)
        change = (1 - end) * (move[:, None] * forward + (1 - move)[:, None] * np.eye(4))
        return np.linalg.solve(np.eye(4) - gamma * change, move * np.arange(4))

    return data, solve


@pytest.mark.parametrize(("smoothness", "move"), [(FINE, [1, 1, 1, 1]), (COARSE, [0.2, 0.9, 0.5, 0.7])])
def test_fitted_q_evaluation_solves_a_small_decision_process(smoothness: Any, move: list[float]) -> None:
    data, solve = make_chain(count=10_000, seed=0)
    values = solve(np.array(move), 0.95)
    chances = np.asarray(data.observations @ np.array(move), np.float32)
    model = FittedQEvaluation(data, gamma=0.95, seed=1, smoothness=smoothness)
    found = model.evaluate(np.stack([1 - chances, chances], axis=1))
    assert found.start == pytest.approx(values[0], rel=0.06)
    for state in range(4):
        row = int(np.argmax(data.observations[:, state]))
        moved = 0.95 * 0.9 * values[(state + 1) % 4] + state
        stayed = 0.95 * 0.9 * values[state]
        np.testing.assert_allclose(found.q_values[row], [stayed, moved], rtol=0.08)


def test_a_large_log_begins_near_the_limit_that_the_iteration_reaches_from_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, _ = make_chain(count=10_000, seed=2)
    target = np.tile(np.array([[0.3, 0.7]], np.float32), (len(data), 1))
    model = FittedQEvaluation(data, gamma=0.99, seed=1)
    near = model.evaluate(target)
    monkeypatch.setattr(fqe, "_ROWS_PER_WEIGHT", len(data))
    far = model.evaluate(target)
    assert (near.weights != far.weights).any()
    bounds = bound_returns(data, 0.99)
    assert near.start == pytest.approx(far.start, abs=2 * fqe._SETTLED * (bounds.high - bounds.low))


def test_refits_spread_as_other_logs_would() -> None:
    """The spread over drawn episodes is that over fresh logs of the process, and the truth lies within."""
    move = np.ones(4)
    fresh = []
    spreads = []
    hits = 0
    for seed in range(30):
        data, solve = make_chain(count=1500, seed=seed)
        target = np.tile(np.array([[0, 1]], np.float32), (len(data), 1))
        model = FittedQEvaluation(data, gamma=0.9, seed=seed)
        fresh.append(model.evaluate(target).start)
        refits = model.resample(target, resamples=30, seed=seed)
        spreads.append(refits.std())
        hits += abs(fresh[-1] - solve(move, 0.9)[0]) < 3 * refits.std()
    assert 0.5 < np.mean(spreads) / np.std(fresh) < 2
    assert hits >= 28


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
def test_a_log_without_any_end_is_worth_what_its_steps_cost_for_ever(gamma: float) -> None:
    """Not less: a penalty on the regression's constant would shrink it, step after step."""
    rng = np.random.default_rng(0)
    count = 2000
    following = np.arange(1, count + 1)
    following[99::100] = UNKNOWN
    data = Transitions(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(2, size=count),
        np.full(count, -1, np.float32),
        following,
        np.arange(0, count, 100),
        None,
        2,
    )
    target = np.full((count, 2), 0.5, np.float32)
    for smoothness in (FINE, COARSE):
        found = FittedQEvaluation(data, gamma=gamma, seed=0, smoothness=smoothness).evaluate(target)
        assert found.start == pytest.approx(-1 / (1 - gamma), rel=0.02)


def test_an_action_that_was_never_logged_is_worth_the_least() -> None:
    data = replace(make_data(actions=2, length=8), num_actions=3, rewards=-np.ones(320, np.float32))
    always = np.tile(np.array([0, 0, 1], np.float32), (320, 1))
    least = -(1 - 0.9**8) / 0.1  # every episode has 8 steps
    assert FittedQEvaluation(data, gamma=0.9, seed=0).evaluate(always).start == pytest.approx(least)


def test_continuous_actions_are_evaluated_too() -> None:
    """One step: the value of an action is what it pays there."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3000, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (3000, 1)).astype(np.float32)
    rewards = states[:, 0] * actions[:, 0] - actions[:, 0] ** 2
    data = Transitions(states, actions, rewards, np.full(3000, TERMINAL), np.arange(3000), None, None)
    target = np.clip(states[:, :1] / 2, -1, 1).astype(np.float32)
    expected = (states[:, 0] * target[:, 0] - target[:, 0] ** 2).mean()
    assert FittedQEvaluation(data, gamma=0.9, seed=0).evaluate(target).start == pytest.approx(expected, abs=0.03)


def test_the_behavior_policy_is_recovered_from_its_actions() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(8000, 2)).astype(np.float32)
    chances = 1 / (1 + np.exp(-2 * states[:, 0]))
    actions = (rng.random(8000) < chances).astype(np.int64)
    data = Transitions(states, actions, np.zeros(8000, np.float32), np.full(8000, TERMINAL), np.arange(8000), None, 2)
    train, held_out = data.split(0.5, seed=0)
    found = estimate_behavior(train, held_out, seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found[:, 1] - 1 / (1 + np.exp(-2 * held_out.states[:, 0]))).mean() < 0.03


def test_the_latest_iteration_close_to_the_best_is_chosen() -> None:
    assert choose([10, 100, 99.5, 60], logged=20) == 2
    assert choose([10, 100, 98.9, 60], logged=20) == 1
    assert choose([-100, -50, -50.4, -51], logged=-90) == 2
    # Close to 0, the gain on the log is what a hundredth is of.
    assert choose([-5, 0.05, 0.0, -1], logged=-10) == 2
    assert choose([3], logged=5) == 0


def fixed(probabilities: list[float]) -> NetworkPolicy:
    """Networks whose values lead to a policy that always takes the likeliest of these actions."""
    layer = nn.Linear(4, len(probabilities))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(probabilities))
    return NetworkPolicy("greedy", {"q": [nn.Sequential(layer)]}, ObservationFilter(np.zeros(4), np.ones(4), 10.0))


def test_an_evaluator_prefers_the_better_policy_and_gives_an_interval() -> None:
    data, solve = make_chain(count=6000, seed=3, end=0.3)
    evaluator = PolicyEvaluator(data, gamma=0.9, seed=0)
    moves, stays = fixed([0.0, 1.0]), fixed([1.0, 0.0])
    better, worse = evaluator.score(moves), evaluator.score(stays)
    truth = solve(np.ones(4), 0.9)[0]
    assert better["estimated_return"] == pytest.approx(truth, rel=0.1)
    assert worse["estimated_return"] == pytest.approx(0, abs=0.1 * truth)
    report = evaluator.report(moves)
    assert report.value.low < truth < report.value.high
    assert report.value.low > report.behaviour.high  # so the log recommends the change
    assert report.lower_bound is not None
    assert 0 <= report.lower_bound <= truth
    for name in ("pdis", "wpdis", "sdr", "wdr"):
        assert report.estimators[name].low <= truth <= report.estimators[name].high, name


def test_few_episodes_and_hopeless_weights_are_warned_of() -> None:
    data, _ = make_chain(count=400, seed=0, end=0.02)
    evaluator = PolicyEvaluator(data, gamma=0.9, seed=0)
    report = evaluator.report(fixed([0.0, 1.0]))
    assert len(data.starts) < 30
    assert any("fewer than 30: every interval is rough" in line for line in report.warnings)
    assert any("importance sampling cannot tell policies apart" in line for line in report.warnings)
