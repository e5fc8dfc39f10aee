"""Evaluating any policy on any log: values by closed form, what is left out or refused, and wrong input."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

import smrl
from benchmarks.known_values import Grid
from runtime.cli import main
from runtime.errors import UserError
from runtime.offline import PolicyEvaluation, evaluate_policy
from runtime.offline.data.transitions import TERMINAL, Transitions
from tests.offline.test_selection import make_chain


def fixed(*probabilities: float) -> Any:
    """A policy with the same probabilities everywhere."""
    return lambda states: np.tile(np.array(probabilities, np.float32), (len(states), 1))


def write(data: Transitions, path: Path, *, probabilities: bool = True) -> Path:
    """Writes a log as CSV; returns the path."""
    episode = np.repeat(np.arange(len(data.starts)), data.lengths)
    columns: dict[str, Any] = {f"state_feature_{i}": data.states[:, i] for i in range(data.shape[0])}
    if data.num_actions is None:
        columns |= {f"action_{i}": data.actions[:, i] for i in range(data.actions.shape[1])}
    else:
        columns["action"] = data.actions
    if probabilities and data.probabilities is not None:
        columns |= {f"action_probability_{i}": column for i, column in enumerate(data.probabilities.T)}
    pandas.DataFrame({**columns, "reward": data.rewards, "episode_id": episode}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The log of a small decision process, and what solves it."""
    data, solve = make_chain(count=3000, seed=1, end=0.25)
    return write(data, tmp_path_factory.mktemp("chain") / "log.csv"), solve


def test_estimates_are_those_of_a_linear_solve(chain: tuple[Path, Any]) -> None:
    log, solve = chain
    truth = solve(np.full(4, 0.8), 0.9)[0]
    found = evaluate_policy(fixed(0.2, 0.8), log, gamma=0.9)
    assert found.value.value == pytest.approx(truth, rel=0.1)
    assert found.value.low < truth < found.value.high
    assert set(found.estimators) == {"is", "wis", "pdis", "wpdis", "dm", "sdr", "wdr", "magic"}
    for name in ("is", "wis", "pdis", "wpdis", "sdr", "wdr"):
        one = found.estimators[name]
        assert one.low <= truth <= one.high, name
        assert one.value == pytest.approx(truth, rel=0.25), name
    assert found.estimators["magic"].value == pytest.approx(truth, rel=0.1)
    assert found.sample_size is not None
    assert found.outside is not None
    assert 10 < found.sample_size < found.episodes
    assert found.outside < 0.02
    assert (found.refused, dict(found.left_out)) == ("", {})
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        found.gamma = 1.0  # type: ignore[misc]


def test_the_slippery_grid_has_the_value_of_its_linear_solve() -> None:
    grid = Grid()
    policy = fixed(0.1, 0.4, 0.4, 0.1)
    truth = grid.value(policy).discounted
    found = evaluate_policy(policy, grid.log(600, seed=5), gamma=grid.gamma)
    assert found.value.low <= truth <= found.value.high
    assert found.value.value == pytest.approx(truth, abs=0.05)
    assert found.estimators["wpdis"].low <= truth <= found.estimators["wpdis"].high
    assert found.bounds.high == pytest.approx(1)


def test_of_the_logs_own_policy_importance_sampling_is_the_mean_return(chain: tuple[Path, Any]) -> None:
    log, _ = chain
    found = evaluate_policy(fixed(0.5, 0.5), log, gamma=0.9)
    for name in ("is", "wis", "pdis", "wpdis"):
        assert found.estimators[name].value == pytest.approx(found.behaviour.value, rel=1e-6), name
    assert found.sample_size == pytest.approx(found.episodes)


def test_epsilon_and_temperature_change_the_policy_as_they_say(chain: tuple[Path, Any]) -> None:
    log, _ = chain
    mixed = evaluate_policy(fixed(0, 1), log, gamma=0.9, epsilon=0.4)
    np.testing.assert_equal(
        {name: astuple(one) for name, one in mixed.estimators.items()},
        {name: astuple(one) for name, one in evaluate_policy(fixed(0.2, 0.8), log, gamma=0.9).estimators.items()},
    )
    flat = evaluate_policy(fixed(0.2, 0.8), log, gamma=0.9, temperature=2.0)  # in proportion to their square roots
    assert flat.estimators["pdis"].value == pytest.approx(
        evaluate_policy(fixed(1 / 3, 2 / 3), log, gamma=0.9).estimators["pdis"].value, rel=1e-5
    )


def test_without_action_probabilities_importance_sampling_is_left_out(chain: tuple[Path, Any], tmp_path: Path) -> None:
    data, solve = make_chain(count=3000, seed=1, end=0.25)
    log = write(data, tmp_path / "bare.csv", probabilities=False)
    truth = solve(np.full(4, 0.8), 0.9)[0]
    found = evaluate_policy(fixed(0.2, 0.8), log, gamma=0.9)
    assert set(found.estimators) == {"dm"}
    assert found.estimators["dm"].value == pytest.approx(found.value.value, rel=0.05)
    assert found.value.low < truth < found.value.high
    assert set(found.left_out) == {"is", "wis", "pdis", "wpdis", "sdr", "wdr", "magic"}
    assert set(found.left_out.values()) == {"the log has no action probabilities"}
    assert found.sample_size is None
    cloned = evaluate_policy(fixed(0.2, 0.8), log, gamma=0.9, estimate_behavior=True)
    assert any("importance sampling uses estimated ones" in note for note in cloned.notes)
    known = evaluate_policy(fixed(0.2, 0.8), chain[0], gamma=0.9)
    assert cloned.estimators["wpdis"].value == pytest.approx(known.estimators["wpdis"].value, rel=0.1)


def test_a_policy_far_from_the_log_has_its_interval_refused() -> None:
    """The log never takes action 1 beyond the first state, so that nothing is known of a policy that always does."""
    rng = np.random.default_rng(0)
    count = 400
    states = np.concatenate([np.zeros((count, 1)), np.ones((count, 1))], axis=1).reshape(-1, 1)
    actions = np.stack([rng.integers(2, size=count), np.zeros(count, int)], axis=1).reshape(-1)
    data = Transitions(
        (states + 0.01 * rng.normal(size=states.shape)).astype(np.float32),
        actions,
        np.asarray(np.where(np.arange(2 * count) % 2, rng.choice([-1, 1], 2 * count), 0), np.float32),
        np.where(np.arange(2 * count) % 2, TERMINAL, np.arange(1, 2 * count + 1)),
        np.arange(0, 2 * count, 2),
        np.where(states > 0.5, [[1.0, 0.0]], [[0.5, 0.5]]).astype(np.float32),
        2,
    )
    found = evaluate_policy(fixed(0, 1), data, gamma=0.9)
    assert found.refused.startswith("this log supports no interval")
    assert (found.value.low, found.value.high) == (found.bounds.low, found.bounds.high)
    assert found.outside is not None
    assert found.outside > 0.5
    assert found.sample_size == 0
    assert set(found.left_out) >= {"is", "wis", "wpdis"}
    assert "the policy would not have taken the actions of any logged episode" in found.left_out.values()


def make_target(*, count: int, seed: int) -> tuple[Transitions, float]:
    """One-step episodes with actions in -1 to 1 that pay 1 - (action - state / 2)²; the value of `action = state`."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    rewards = np.asarray(1 - ((actions - states / 2) ** 2)[:, 0], np.float32)
    data = Transitions(states, actions, rewards, np.full(count, TERMINAL), np.arange(count), None, None)
    return data, 1 - 1 / 12  # the mean of 1 - (state / 2)² over -1 to 1


def test_continuous_actions_have_a_direct_estimate_and_an_interval(tmp_path: Path) -> None:
    data, truth = make_target(count=2000, seed=0)
    found = evaluate_policy(lambda states: states, write(data, tmp_path / "log.csv"), gamma=0.9)
    assert found.value.value == pytest.approx(truth, abs=0.02)
    assert found.value.low < truth < found.value.high
    assert set(found.estimators) == {"dm"}
    assert found.estimators["dm"].value == pytest.approx(truth, abs=0.02)
    assert set(found.left_out.values()) == {
        "actions are continuous, and a deterministic policy takes each logged one with density 0"
    }
    with pytest.raises(UserError, match="temperature, epsilon: got one for continuous actions"):
        evaluate_policy(lambda states: states, data, gamma=0.9, epsilon=0.1)


def test_a_policy_with_more_actions_than_the_log_took_is_evaluated(tmp_path: Path) -> None:
    data, _ = make_chain(count=400, seed=0, end=0.3)
    log = write(data, tmp_path / "bare.csv", probabilities=False)
    assert evaluate_policy(fixed(0.5, 0.5, 0), log, gamma=0.9).estimators["dm"].value > 0
    with pytest.raises(UserError, match="with 3 actions; expected 2, as the log's"):
        evaluate_policy(fixed(0.5, 0.5, 0), data, gamma=0.9)  # its probabilities say that there are two


def test_a_log_that_says_1_for_every_action_is_doubted(chain: tuple[Path, Any]) -> None:
    data, _ = make_chain(count=400, seed=0, end=0.3)
    certain = replace(data, probabilities=None, logged_probabilities=np.ones(len(data), np.float32))
    found = evaluate_policy(fixed(0.5, 0.5), certain, gamma=0.9)
    assert any("every logged action has probability 1" in line for line in found.warnings)


def nan_at_some(states: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.where(states[:, :1] > 0, np.nan, 0.5) * np.ones((1, 2))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (fixed(0.5, 0.6), r"got \[0.5, 0.6\] for observation 0 from <lambda>; expected probabilities .* sum to 1"),
        (fixed(-0.5, 1.5), r"got \[-0.5, 1.5\] for observation 0"),
        (fixed(1.0), "with 1 actions; expected 2"),
        (lambda states: states[:, 0], r"an answer of shape \(\d+,\) for \d+ observations"),
        (lambda states: [["left", "right"]] * len(states), "got an array of <U5 from <lambda>; expected numbers"),
        (nan_at_some, r"got \[nan, nan\] for observation \d+ from nan_at_some; expected finite numbers"),
        ("nowhere", "got 'nowhere', which does not exist; expected a model directory"),
    ],
)
def test_a_wrong_policy_is_refused_by_name(policy: Any, message: str, chain: tuple[Path, Any]) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_policy(policy, chain[0], gamma=0.9)


def test_settings_that_make_no_sense_are_listed_at_once(chain: tuple[Path, Any]) -> None:
    with pytest.raises(UserError, match=r"(?s)4 problems.*gamma: got 1.*0.999.*horizon: got 0.*temperature.*epsilon"):
        evaluate_policy(fixed(0.5, 0.5), chain[0], gamma=1, horizon=0, temperature=-1, epsilon=2)


def test_a_broken_log_and_a_missing_policy_are_both_named(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("state_feature_0,action,reward,episode_id,all_action_probabilities\n1,0,1,a,0.2;0.9\n2,1,1,b,1;0\n")
    with pytest.raises(UserError, match=r"(?s)2 problems.*sum to 1.*more than 0 for the action.*policy: got 'gone'"):
        evaluate_policy("gone", log)
    log.write_text("state_feature_0,action,reward,episode_id\n")
    with pytest.raises(UserError, match="got no transitions; expected at least one episode"):
        evaluate_policy(fixed(0.5, 0.5), log)
    log.write_text("state_feature_0,action,reward,episode_id\n1,0,1,a\n2,1,1,a\n")
    with pytest.raises(UserError, match=r"log: got 1 episodes from .*expected at least 2"):
        evaluate_policy(fixed(0.5, 0.5), log)


def test_the_result_is_the_same_each_time_and_by_smrl(chain: tuple[Path, Any]) -> None:
    first, again = (
        evaluate(fixed(0.2, 0.8), chain[0], gamma=0.9) for evaluate in (evaluate_policy, smrl.evaluate_policy)
    )
    assert isinstance(again, PolicyEvaluation)
    np.testing.assert_equal(asdict(first), asdict(again))  # where what has no interval is equal, too


def test_the_command_refuses_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ope"]) == 2
    said = capsys.readouterr().err
    assert "--policy: got none" in said
    assert "--data: got none" in said


def test_the_command_prints_every_estimate_as_text_or_json(
    chain: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.offline.test_target_policies import write_onnx

    policy = write_onnx(tmp_path / "policy.onnx", "action_probabilities", np.zeros((4, 2)), bias=[0.2, 0.8])
    words = ["ope", "--policy", str(policy), "--data", str(chain[0]), "--gamma", "0.9"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = evaluate_policy(fixed(0.2, 0.8), chain[0], gamma=0.9)
    assert found["estimators"]["pdis"]["value"] == pytest.approx(expected.estimators["pdis"].value, rel=1e-5)
    assert found["estimators"]["magic"]["low"] is None
    assert (found["policy"], found["log"], found["refused"]) == (str(policy), str(chain[0]), "")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"estimated return     {expected.value.text()}, discounted by 0.9, with its 95 % interval" in said
    assert f"per-decision IS      {expected.estimators['pdis'].text()}" in said
    assert "MAGIC                " in said
    assert "left out" not in said
