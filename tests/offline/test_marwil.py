"""MARWIL: behavior cloning without a preference, the closed form of a bandit, and returns to the end of an episode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.offline.bcq import Learner, Recipe
from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.offline.marwil import ReturnsToGo

RECIPE = Recipe("MARWIL", (32,), "tanh", 1e-2, 0.9, 256, 10, 0.3, "mse", 1.0, 0.99, 7)


def bandit(*, box: bool = False) -> Transitions:
    """Episodes of one step in one state; the reward is the action: 0, 1 or 2, or one number from -1 to 1."""
    rng = np.random.default_rng(0)
    count = 3000
    actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32) if box else np.arange(count) % 3
    return Transitions(
        np.zeros((count, 2), np.float32),
        actions,
        actions.reshape(count).astype(np.float32),
        np.full(count, TERMINAL),
        np.arange(count),
        None if box else np.full((count, 3), 1 / 3, np.float32),
        None if box else 3,
    )


@pytest.mark.parametrize("box", [False, True])
def test_without_a_preference_it_learns_what_behavior_cloning_does(box: bool) -> None:
    data = bandit(box=box)
    clone = Learner(data, replace(RECIPE, algorithm="BC"))
    ours = Learner(data, replace(RECIPE, beta=0.0))
    for learner in (clone, ours):
        learner.run(20)
    imitators = (learner._algorithm.impl.modules.imitator for learner in (clone, ours))
    for theirs, mine in zip(*(module.parameters() for module in imitators), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_a_bandits_actions_are_preferred_by_their_advantages_whatever_the_rewards_unit(unit: float) -> None:
    data = bandit()
    beta = 1.5
    learner = Learner(replace(data, rewards=unit * data.rewards), replace(RECIPE, beta=beta))
    learner.run(1500)
    output = learner._algorithm.impl.modules.imitator(torch.zeros(1, 2))
    advantages = np.array([-1.0, 0.0, 1.0])
    weights = np.exp(beta * advantages / np.sqrt((advantages**2).mean()))
    np.testing.assert_allclose(output.probs[0].detach(), weights / weights.sum(), atol=0.02)


def test_the_best_action_is_preferred_also_where_weights_grow_linearly() -> None:
    learner = Learner(bandit(), replace(RECIPE, beta=10.0))
    learner.run(1500)
    output = learner._algorithm.impl.modules.imitator(torch.zeros(1, 2))
    exponents = 10 * np.array([-1.0, 0.0, 1.0]) / np.sqrt(2 / 3)
    weights = [np.exp(exponents[0]), 1.0, 20 * (1 + exponents[2] - np.log(20))]
    np.testing.assert_allclose(output.probs[0].detach(), weights / np.sum(weights), atol=0.02)


def test_networks_of_another_job_learn_rewards_of_another_unit(tmp_path: Path) -> None:
    data = bandit()
    first = Learner(data, RECIPE)
    first.run(1500)
    for name, content in first.state().items():
        (tmp_path / name).write_bytes(content)
    second = Learner(replace(data, rewards=1000 * data.rewards), RECIPE)
    second.restore(tmp_path)
    second.run(500)
    output = [one._algorithm.impl.modules.imitator(torch.zeros(1, 2)).probs[0].detach() for one in (first, second)]
    torch.testing.assert_close(output[1], output[0], rtol=0, atol=0.03)


def test_a_continuous_action_is_the_weighted_mean_of_the_logs() -> None:
    learner = Learner(bandit(box=True), RECIPE)
    learner.run(1500)
    # The advantage is the action a, uniform on [-1, 1], whose root mean square is 1 / sqrt(3).
    actions = np.linspace(-1, 1, 10_001)
    expected = np.average(actions, weights=np.exp(np.sqrt(3) * actions))
    assert float(learner.policy().actions(np.zeros((1, 2), np.float32))[0, 0]) == pytest.approx(expected, abs=0.04)


def test_returns_go_to_the_end_of_an_episode_or_to_its_last_known_state() -> None:
    """Three episodes: one that ends, one cut before a known state, and one cut before an unknown one."""
    data = Transitions(
        np.zeros((10, 1), np.float32),
        np.zeros(9, np.int64),
        np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], np.float32),
        np.array([1, 2, TERMINAL, 4, 5, 9, 7, 8, UNKNOWN]),
        np.array([0, 3, 6]),
        None,
        2,
    )
    found = ReturnsToGo.until_end(data, 0.5)
    np.testing.assert_allclose(found.returns, [2.75, 3.5, 3, 2.75, 3.5, 3, 2, 2, 3])
    assert found.next_rows.tolist() == [TERMINAL, TERMINAL, TERMINAL, 9, 9, 9, 8, 8, UNKNOWN]
    assert found.steps.tolist() == [3, 2, 1, 3, 2, 1, 2, 1, 1]
