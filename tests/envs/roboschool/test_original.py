"""Our robots beside OpenAI's: code and engine of Roboschool's last wheel, and the agents that OpenAI published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.zoo import WHEEL, Agent, find_agent, play
from envs.roboschool.registration import ROBOSCHOOL_IDS
from envs.roboschool.robots import build_robot
from tests.conftest import ROOT

ZOO = ROOT.parent / "shared" / "roboschool_zoo"
# Robots with a floor are compared until they touch it, or themselves; the others touch nothing.
MOST_STEPS = {
    **dict.fromkeys(("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid", "HumanoidFlagrun"), 12),
    **{"Reacher": 100, "InvertedPendulum": 40, "InvertedDoublePendulum": 40},
}
TORQUE = 0.1  # of the most; with much torque a foot is on the floor at once


def follow_original(robot: str, seed: int, actions: Any) -> tuple[np.ndarray[Any, Any], list[float]]:
    if not WHEEL.exists():
        pytest.skip(f"{WHEEL} is absent; `make test` installs Roboschool's last wheel there")
    job = {"robot": robot, "seed": seed, "actions": np.asarray(actions).tolist()}
    script = ROOT / "tests" / "peers" / "roboschool_wheel.py"
    command = [sys.executable, "-W", "ignore", str(script), str(WHEEL)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return np.array(answer["observations"]), answer["rewards"]


@pytest.mark.parametrize(("robot", "most_steps"), MOST_STEPS.items())
def test_steps_equal_the_originals_until_a_contact(robot: str, most_steps: int) -> None:
    compared = 0
    for seed in range(3):
        ours = build_robot(robot, as_port=False)
        actions = np.random.default_rng(seed).uniform(-TORQUE, TORQUE, (most_steps, ours.action_size))
        actions = actions.astype(np.float32)
        rng = np.random.default_rng(seed)
        observations = [ours.reset(rng, is_seeded=True)]
        rewards: list[float] = []
        for action in actions:
            observation, reward, _ = ours.step(action, rng)
            if ours.world.api.getContactPoints(physicsClientId=ours.world.client):
                break
            observations.append(observation)
            rewards.append(reward)
        ours.close()
        expected, expected_rewards = follow_original(robot, seed, actions)
        steps = len(rewards)
        np.testing.assert_allclose(observations, expected[: steps + 1], atol=1e-3)
        np.testing.assert_allclose(rewards, expected_rewards[:steps], atol=2e-3)
        compared += steps
    assert compared >= 6


@pytest.mark.parametrize("env_id", ROBOSCHOOL_IDS)
def test_openais_agents_reach_the_threshold(env_id: str) -> None:
    path = find_agent(ZOO, env_id)
    if path is None:
        pytest.skip(f"{ZOO}: OpenAI's agents are not part of the repository")
    returns, lengths = play(env_id, path, episodes=3)
    threshold = ROBOSCHOOL_IDS[env_id].reward_threshold
    if env_id.endswith("Harder-v1"):
        threshold = 500.0  # has none; a robot that does not get up has less
    if env_id.startswith("RoboschoolReacher"):
        threshold = 10.0  # single episodes differ by 10, with the distance at the start
    assert threshold is not None
    assert np.mean(returns) > threshold
    assert "Flagrun" in env_id or set(lengths) == {ROBOSCHOOL_IDS[env_id].max_episode_steps}


def test_a_cut_file_and_another_robots_agent_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "agent.npz"
    layers = {"dense1": (9, 4), "dense2": (4, 4), "final": (4, 2)}
    weights = {f"{name}_w": np.zeros(shape) for name, shape in layers.items()}
    biases = {f"{name}_b": np.zeros(shape[1]) for name, shape in layers.items()}
    np.savez(whole, **weights, **biases)  # type: ignore[arg-type]
    assert Agent(whole, observation_size=9, action_size=2).act(np.ones((3, 9), np.float32)).shape == (3, 2)
    with pytest.raises(ValueError, match="maps 9 observations to 2 actions; the robot has 15 and 3"):
        Agent(whole, observation_size=15, action_size=3)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut\.npz: cannot be read as an agent"):
        Agent(cut, observation_size=9, action_size=2)
