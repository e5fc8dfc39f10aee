"""Action masks in batch RL: whatever learns, estimates or collects takes allowed actions alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas
import pytest
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.offline import evaluate_policy
from runtime.offline.bcq import Learner, Recipe
from runtime.offline.data.transitions import TERMINAL, Transitions
from runtime.offline.estimators.behavior import estimate_behavior
from runtime.offline.selection import PolicyEvaluator
from tests.conftest import ROOT, run_smrl

ENV = "tests.toy_envs:Shelves"
GAMMA = 0.9


def two_rooms(*, episodes: int = 400) -> Transitions:
    """Episodes of two steps: a corridor, -1 or 1, then a room that looks the same from both, with another mask.

    In the room, action 0 pays 1 and action 1 pays 10, which the mask allows only from corridor 1. In a corridor,
    nothing is paid. The returns are 0.9 from corridor -1, and 9 from corridor 1 by taking action 1.
    """
    rng = np.random.default_rng(0)
    corridors = rng.choice([-1.0, 1.0], episodes)
    numbers = np.column_stack([corridors, np.full(episodes, 5.0)]).ravel()
    allowed = np.ones((2 * episodes, 2))
    allowed[1::2, 1] = corridors > 0
    actions = (rng.random(2 * episodes) < 0.5) & (allowed[:, 1] > 0)
    rewards = np.where(numbers == 5, np.where(actions, 10, 1), 0)
    following = np.arange(1, 2 * episodes + 1)
    following[1::2] = TERMINAL
    return Transitions(
        np.column_stack([numbers, allowed]).astype(np.float32),
        actions.astype(np.int64),
        rewards.astype(np.float32),
        following,
        np.arange(0, 2 * episodes, 2),
        (allowed / allowed.sum(axis=1, keepdims=True)).astype(np.float32),
        2,
        mask_size=2,
    )


def learn(algorithm: str, *, updates: int = 1500) -> Learner:
    learner = Learner(two_rooms(), Recipe(algorithm, (32,), "relu", 3e-3, GAMMA, 64, 50, 0.1, "mse", 1.0, 0.99, 1))
    learner.run(updates)
    return learner


@pytest.mark.parametrize("algorithm", ["BCQ", "DDQN"])
def test_a_target_is_the_value_of_an_allowed_action(algorithm: str) -> None:
    policy = learn(algorithm).policy()
    values = policy.q_values(np.array([[-1, 1, 1], [1, 1, 1], [5, 1, 1]], np.float32))
    np.testing.assert_allclose(values, [[0.9, 0.9], [9.0, 9.0], [1.0, 10.0]], atol=0.3)


@pytest.mark.parametrize("algorithm", ["BCQ", "DDQN", "CQL", "BC", "MARWIL"])
def test_a_learned_policy_gives_forbidden_actions_no_probability(algorithm: str) -> None:
    policy = learn(algorithm, updates=300).policy(averaged=True)
    rng = np.random.default_rng(2)
    masks = rng.permuted(np.tile([0.0, 1.0], (500, 1)), axis=1)  # one action each
    rows = np.column_stack([rng.normal(0, 5, 500), masks]).astype(np.float32)
    for found in (policy.probabilities(rows), policy.probabilities(rows, epsilon=0.5)):
        np.testing.assert_allclose(found, masks, atol=1e-6)
    np.testing.assert_allclose(policy.probabilities(rows, temperature=100.0), masks, atol=1e-6)
    assert [policy.act(row) for row in rows[:20]] == masks[:20, 1].tolist()
    assert policy.act({"action_mask": [0, 1], "real_obs": [-1.0]}) == 1


def test_an_estimated_behavior_policy_takes_no_forbidden_action() -> None:
    data = replace(two_rooms(), probabilities=None)
    found = estimate_behavior(data, data, seed=0)
    masks = data.states[:, -2:]
    np.testing.assert_allclose(found, masks / masks.sum(axis=1, keepdims=True), atol=0.1)
    assert (found[masks == 0] == 0).all()


def greedy(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Action 1 wherever it is allowed."""
    takes = rows[:, -1]
    return np.column_stack([1 - takes, takes]).astype(np.float32)


def test_estimates_are_those_of_allowed_actions() -> None:
    data = two_rooms()
    share = float((data.observations[data.starts, 0] > 0).mean())
    expected = share * 9 + (1 - share) * 0.9
    found = evaluate_policy(greedy, data, gamma=GAMMA)
    assert found.value.value == pytest.approx(expected, abs=0.2)
    assert found.estimators["dm"].value == pytest.approx(expected, abs=0.3)
    assert found.estimators["wis"].value == pytest.approx(expected, abs=1)
    learned = PolicyEvaluator(data, gamma=GAMMA, seed=0).score(learn("DDQN").policy())
    assert learned["estimated_return"] == pytest.approx(expected, abs=0.2)


def test_a_policy_that_takes_a_forbidden_action_is_no_policy_of_the_log() -> None:
    message = r"got \[0, 1\] for observation 1 from <lambda>; expected 0 for the actions that its action_mask \[1, 0\] "
    data = two_rooms()
    order = np.argsort(data.observations[data.starts, 0], kind="stable")  # corridor -1 first
    with pytest.raises(UserError, match=message):
        evaluate_policy(lambda rows: np.tile([0.0, 1.0], (len(rows), 1)), data.select(order), gamma=GAMMA)


def test_a_policy_of_more_actions_than_a_mask_has_numbers_is_refused() -> None:
    data = replace(two_rooms(), probabilities=None)
    with pytest.raises(UserError, match="got <lambda> with 3 actions; expected 2, as the log's"):
        evaluate_policy(lambda rows: np.tile([1.0, 0.0, 0.0], (len(rows), 1)), data, gamma=GAMMA)


def smrl(*words: str) -> str:
    done = run_smrl(*words, cwd=ROOT, timeout_s=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_masked_log_is_collected_learned_from_exported_and_estimated(tmp_path: Path) -> None:
    """The environment raises at an action that its mask does not allow."""
    log, out = str(tmp_path / "log.csv"), str(tmp_path / "results")
    smrl("collect", "--env", ENV, "--envs", "20", "--episodes", "40", "--out", log)
    table = pandas.read_csv(log)
    masks = table[[f"action_mask_{i}" for i in range(4)]].to_numpy()
    probabilities = np.array(table["all_action_probabilities"].map(json.loads).tolist())
    np.testing.assert_allclose(probabilities, masks / masks.sum(axis=1, keepdims=True), rtol=1e-6)
    words = ["rl.training.config.updates_per_iteration=1000", "rl.training.stop.training_iteration=2"]
    words += ["rl.training.run=DDQN", "rl.training.config.seed=1", f"rl.training.env={ENV}"]
    smrl("train", "--data", log, "--out", out, *words)
    model = tmp_path / "results" / "model"
    exports = json.loads((model / "manifest.json").read_text())["exports"]
    assert [export["inputs"]["action_mask"]["shape"] for export in exports] == [[-1, 4]] * 3
    session = onnxruntime.InferenceSession(model / "policy.onnx")
    seen = np.repeat(np.array([[80, 60, 40, 20]], np.float32), 3, axis=0)
    asked = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    chosen = session.run(None, {"observations": seen, "action_mask": asked})[0].argmax(axis=1)
    assert chosen.tolist() == [0, 1, 3]  # the largest that is left
    smrl("evaluate", out, "evaluate_episodes=100", "seed=1")
    played = json.loads((tmp_path / "results" / "evaluation" / "evaluation.json").read_text())
    assert played["mean_reward"] > 0.1  # any order at random has the mean 0
    assert "estimated return" in smrl("ope", "--policy", out, "--data", log, "--epsilon", "0.1")
    states, answers, more = (str(tmp_path / name) for name in ("states.jsonl", "answers", "more.csv"))
    again = ["--policy", out, "--epsilon", "0.3", "--states", states]
    smrl("collect", "--env", ENV, "--envs", "4", "--episodes", "5", "--out", more, *again)
    smrl("transform", out, "--input", states, "--output", answers, "--join", "input")
    answered = ["--action-probs", f"{answers}/states.jsonl.out", "--states", states]
    assert "4 more steps of 4 episodes" in smrl("collect", *answered, "--out", str(tmp_path / "next.csv"))


def test_probabilities_of_forbidden_actions_are_not_collected_with(tmp_path: Path) -> None:
    states, answers = tmp_path / "states.jsonl", tmp_path / "answers.jsonl"
    smrl("collect", "--env", ENV, "--envs", "2", "--states", str(states))
    row = json.loads(states.read_text().splitlines()[0])
    assert row.keys() == {"observations", "action_mask"}
    answers.write_text('{"predictions": [[0.25, 0.25, 0.25, 0.25]]}\n' * 2)
    words = ["--states", str(states), "--action-probs", str(answers), "--out", str(tmp_path / "log.csv")]
    done = run_smrl("collect", *words, cwd=ROOT)
    assert done.returncode == 2
    assert "expected 0 for the actions that its action_mask does not allow" in done.stderr


def test_a_log_and_its_environment_both_have_masks_or_neither(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"{i % 3},{i % 2},1,{i}" for i in range(20)]
    log.write_text("\n".join(["state_feature_0,action,reward,episode_id", *rows]))
    done = run_smrl("train", "--data", str(log), "--env", ENV, "--out", str(tmp_path / "out"), cwd=ROOT)
    assert done.returncode == 2
    assert f"got no action_mask; expected what {ENV} has" in done.stderr
