"""Bounds on discounted returns: by enumeration, and on logs whose rewards come at the end of an episode alone."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.fqe import FittedQEvaluation
from runtime.offline.selection import PolicyEvaluator
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import NetworkPolicy
from tests.offline.test_bcq import one_thread

__all__ = ["one_thread"]  # a fixture that acts by itself

ACTIONS = 5


def make_log(*episodes: list[float], end: int = TERMINAL, kept: bool = False) -> Transitions:
    """Episodes of these rewards; `kept`: they were cut off and the state after each cut is known."""
    lengths = np.array([len(rewards) for rewards in episodes])
    starts = np.cumsum(lengths) - lengths
    count = int(lengths.sum())
    following = np.arange(1, count + 1)
    following[starts + lengths - 1] = count + np.arange(len(episodes)) if kept else end
    states = np.zeros((count + len(episodes) * kept, 1), np.float32)
    rewards = np.concatenate([np.array(one, np.float32) for one in episodes])
    return Transitions(states, np.zeros(count, np.int64), rewards, following, starts, None, 2)


def test_rewards_at_the_end_alone_are_paid_once() -> None:
    assert bound_returns(make_log([0, 0, 1], [0, -1]), 0.99) == ReturnBounds(-1, 1)
    assert bound_returns(make_log([0, 0, 1], [0, 0]), 0.99) == ReturnBounds(0, 1)
    assert bound_returns(make_log([0, 0], [0]), 0.99) == ReturnBounds(0, 0)
    # The end of a cut episode is its last step, too, where nothing is known beyond it …
    assert bound_returns(make_log([0, 0, 1], [0, -1], end=UNKNOWN), 0.99) == ReturnBounds(-1, 1)
    # … and where the log has the state after it, the value bootstraps from there.
    assert bound_returns(make_log([0, 0, 1], [0, 0], kept=True), 0.99).high == pytest.approx(100)


def test_rewards_of_each_step_add_up_without_a_limit() -> None:
    """A pole that never falls, for any longest episode in the log; and a swing that ends with a reward of 0."""
    poles = bound_returns(make_log([1, 1, 1], [1, 1]), 0.99)
    assert (poles.low, poles.high) == pytest.approx((1, 100))
    swings = bound_returns(make_log([-1, -1, 0], [-1, -1, -1, 0]), 0.9)
    assert (swings.low, swings.high) == pytest.approx((-10, 0))
    costly = bound_returns(make_log([-0.1, -0.1, 1], [-0.1, -1]), 0.9)
    assert (costly.low, costly.high) == pytest.approx((-1, 1))


def test_a_horizon_or_a_common_length_limits_the_sum() -> None:
    log = make_log([0.1, 0.1, 1], [0.1, -1])
    limited = bound_returns(log, 0.9, horizon=4)
    assert limited.high == pytest.approx(0.1 * (1 + 0.9 + 0.81) + 0.729)
    assert limited.low == -1
    # The log itself is evidence against a shorter one.
    assert bound_returns(log, 0.9, horizon=2).high == pytest.approx(0.1 * (1 + 0.9) + 0.81)
    common = bound_returns(make_log([1, 1, 2], [1, 1, 1]), 0.9)
    assert common.high == pytest.approx(1 + 0.9 + 2 * 0.81)
    # Of equal length because they were cut: there was more to come.
    assert bound_returns(make_log([1, 1, 1], [1, 1, 1], end=UNKNOWN), 0.9).high == pytest.approx(10)


def test_without_discounting_a_sum_without_a_limit_is_infinite() -> None:
    assert bound_returns(make_log([1, 1], [1, 1, 1]), 1.0) == ReturnBounds(1, math.inf)
    assert bound_returns(make_log([-1, 0], [-1, -1, 0]), 1.0) == ReturnBounds(-math.inf, 0)
    assert bound_returns(make_log([0, 1], [0, 0, -1]), 1.0) == ReturnBounds(-1, 1)
    assert bound_returns(make_log([-1, 0], [-1, -1, 0]), 1.0, horizon=5) == ReturnBounds(-5, 0)


_REWARDS = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0])


@given(_REWARDS, _REWARDS, _REWARDS, _REWARDS, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(2, 4))
@settings(max_examples=150)
def test_the_bounds_are_the_extremes_of_all_episodes(a: float, b: float, c: float, d: float, g: float, h: int) -> None:
    """Every episode of at most h steps, ended or cut, by enumeration of its rewards."""
    log = make_log([a, c], [b, d], [a] * (h - 1) + [c])
    inner, last = sorted({a, b}), sorted({c, d})
    ended = [(*some, end) for n in range(h) for some in itertools.product(inner, repeat=n) for end in last]
    cut = [some for n in range(1, h + 1) for some in itertools.product(inner, repeat=n)]
    if h == 2:  # all logged episodes have two steps: none is known to be cut, and a shorter one is a later state's
        cut = [(reward,) for reward in inner]
    returns = [sum(g**k * reward for k, reward in enumerate(one)) for one in (*ended, *cut)]
    found = bound_returns(log, g, horizon=h)
    assert found.low <= min(returns) + 1e-6
    assert found.high >= max(returns) - 1e-6
    if h > 2:
        assert (found.low, found.high) == pytest.approx((min(returns), max(returns)))


class Clinic:
    """Patients of 8 features under 5 treatments: each leaves or dies in the end, which pays 1 or -1; else 0.

    Args:
        seed: Of what the treatments do.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._mix = 0.9 * np.linalg.qr(rng.normal(size=(8, 8)))[0]
        self._effect = 0.5 * rng.normal(size=(ACTIONS, 8))
        self._risk = rng.normal(size=8) / np.sqrt(8)

    def play(self, policy: Any, episodes: int, *, seed: int) -> Transitions:
        """Episodes of a policy, from (B, 8) states to (B, 5) probabilities; of 40 steps at most."""
        rng = np.random.default_rng(seed)
        state = rng.normal(size=(episodes, 8))
        alive = np.arange(episodes)
        columns: dict[str, list[Any]] = {name: [] for name in ("episode", "state", "action", "reward", "chances")}
        for step in range(40):
            now = state[alive]
            chances = policy(state[alive].astype(np.float32))
            action = (rng.random((len(alive), 1)) > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
            state[alive] = now @ self._mix.T + self._effect[action] + 0.4 * rng.normal(size=now.shape)
            danger = 2 * state[alive] @ self._risk
            dies = rng.random(len(alive)) < 1 / (1 + np.exp(4.5 - danger))
            leaves = ~dies & (rng.random(len(alive)) < 1 / (1 + np.exp(4.5 + danger)))
            dies |= ~leaves & (step == 39)
            for name, values in zip(columns, (alive, now, action, 1.0 * leaves - dies, chances), strict=True):
                columns[name].append(values)
            alive = alive[~(dies | leaves)]
            if not len(alive):
                break
        joined = {name: np.concatenate(values) for name, values in columns.items()}
        order = np.argsort(joined["episode"], kind="stable")
        starts = np.flatnonzero(np.diff(joined["episode"][order], prepend=-1))
        following = np.arange(1, len(order) + 1)
        following[np.append(starts[1:], len(order)) - 1] = TERMINAL
        return Transitions(
            joined["state"][order].astype(np.float32),
            joined["action"][order],
            joined["reward"][order].astype(np.float32),
            following,
            starts,
            joined["chances"][order].astype(np.float32),
            ACTIONS,
        )


def linear_policy(seed: int, *, features: int, actions: int) -> NetworkPolicy:
    """Takes the largest of some linear functions of the features."""
    layer = nn.Linear(features, actions)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(rng.normal(size=(actions, features))))
        layer.bias.copy_(torch.as_tensor(rng.normal(size=actions)))
    as_is = ObservationFilter(np.zeros(features), np.ones(features), 10.0)
    return NetworkPolicy("greedy", {"q": [nn.Sequential(layer)]}, as_is)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_of_a_clinics_log_stay_within_its_rewards(seed: int) -> None:
    """With per-step bounds of ±1 / (1 - 0.99) they were -11.84 [-58.57, 92.67] and the like, for policies near 0."""
    clinic = Clinic(seed)
    policy = linear_policy(seed, features=8, actions=ACTIONS)
    played = clinic.play(policy.probabilities, 4000, seed=seed + 10)
    truth = float((played.returns * 0.99 ** (played.lengths - 1)).mean())
    log = clinic.play(lambda states: 0.04 + 0.8 * policy.probabilities(states), 100, seed=seed + 20)
    evaluator = PolicyEvaluator(log, gamma=0.99, seed=0)
    assert abs(evaluator.score(policy)["weighted_doubly_robust"]) <= 1
    report = evaluator.report(policy)
    assert -1 <= report.value.low <= truth <= report.value.high <= 1
    assert report.value.value == pytest.approx(truth, abs=0.35)
    for name, one in report.estimators.items():
        known = [number for number in (one.value, one.low, one.high) if math.isfinite(number)]
        assert np.abs(known).max(initial=0) <= 1, name
    assert report.lower_bound is not None
    assert -1 <= report.lower_bound <= truth


def make_grid(episodes: int, *, seed: int) -> Transitions:
    """A slippery 8 x 8 grid that pays 1 in one corner and nothing else; steps towards it are likelier."""
    rng = np.random.default_rng(seed)
    moves = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
    chances = np.array([0.1, 0.4, 0.4, 0.1], np.float32)
    holes = {(2, 3), (4, 6), (6, 1)}
    states: list[Any] = []
    starts: list[int] = []
    actions = []
    rewards = []
    following = []
    for _ in range(episodes):
        place = np.zeros(2, int)
        starts = [*starts, len(states)]
        for step in range(60):
            action = int(rng.choice(4, p=chances))
            states.append(place)
            actions.append(action)
            place = np.clip(place + moves[(action + rng.integers(-1, 2)) % 4], 0, 7)
            ended = tuple(place.tolist()) in holes or place.sum() == 14
            rewards.append(float(place.sum() == 14))
            following.append(TERMINAL if ended else UNKNOWN if step == 59 else len(states))
            if ended:
                break
    return Transitions(
        np.array(states, np.float32),
        np.array(actions),
        np.array(rewards, np.float32),
        np.array(following),
        np.array(starts),
        np.tile(chances, (len(states), 1)),
        4,
    )


def test_a_goal_that_is_reached_once_is_worth_at_most_1() -> None:
    """Values went far beyond the goal's own where the steps before it pay nothing: intervals to 32 and to 100."""
    log = make_grid(40, seed=0)
    assert log.rewards.sum() == 4
    assert bound_returns(log, 0.99) == ReturnBounds(0, 1)
    policy = linear_policy(0, features=2, actions=4)
    value = PolicyEvaluator(log, gamma=0.99, seed=0).report(policy).value
    assert 0 <= value.low <= value.value <= value.high <= 1


def test_a_log_that_pays_nothing_is_settled_at_once() -> None:
    """The range of returns is 0 then, and so is the tolerance: it must be reached, not undercut."""
    log = make_log(*[[0.0] * 3] * 50)
    target = np.full((len(log), 2), 0.5, np.float32)
    seconds = []
    for gamma in (0.5, 0.999):  # at most 26 iterations, and 8,010
        model = FittedQEvaluation(log, gamma=gamma, seed=0)
        began = time.process_time()
        assert model.evaluate(target).start == 0
        seconds.append(time.process_time() - began)
    assert seconds[1] < 50 * seconds[0]


def test_an_evaluator_uses_the_bounds_of_the_whole_log() -> None:
    """Rewards that no judging episode has had are possible nevertheless."""
    log = Clinic(0).play(lambda states: np.full((len(states), ACTIONS), 0.2), 60, seed=1)
    lost = log.select(np.flatnonzero(log.returns < 0))
    assert bound_returns(lost, 0.99) == ReturnBounds(-1, 0)
    evaluator = PolicyEvaluator(lost, gamma=0.99, seed=0, bounds=bound_returns(log, 0.99))
    assert evaluator._models[0]._bounds == ReturnBounds(-1, 1)
