"""Replay from columns: the transitions of RLlib's own buffer, the latest ones, and the same draws by the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer

from runtime.outputs.metrics import read_rows
from runtime.rllib.column_replay import ColumnReplayBuffer
from tests.conftest import run_smrl

_NAMES = ("obs", "actions", "rewards", "new_obs", "terminateds")


def play(count: int, *, every: int, limit: int) -> list[SingleAgentEpisode]:
    """Episodes of CartPole in parts of `every` steps, as env runners send them; cut off at `limit` steps."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=limit)
    env.action_space.seed(5)
    parts = []
    for seed in range(count):
        episode = SingleAgentEpisode(observation_space=env.observation_space, action_space=env.action_space)
        episode.add_env_reset(env.reset(seed=seed)[0])
        while not episode.is_done:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            episode.add_env_step(observation, action, float(reward), terminated=terminated, truncated=truncated)
            if len(episode) == every and not episode.is_done:
                parts.append(episode)
                episode = episode.cut()
        parts.append(episode)
    return parts


def rows_of(columns: dict[str, Any]) -> set[tuple[float, ...]]:
    """The distinct transitions of a minibatch."""
    table = np.column_stack([np.asarray(columns[name], np.float32) for name in _NAMES])
    return {tuple(row) for row in table.tolist()}


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_the_transitions_are_those_of_rllibs_buffer(every: int) -> None:
    ours, theirs = ColumnReplayBuffer(1000, seed=0), EpisodeReplayBuffer(1000)
    for buffer in (ours, theirs):
        for part in play(8, every=every, limit=15):
            buffer.add([part])
    (minibatch,) = ours.sample(num_items=5000)
    assert len(minibatch) == 5000
    drawn = theirs.sample(num_items=5000, n_step=1, sample_episodes=True, gamma=0.99)
    ends = [(one.get_observations(0), one.get_observations(1), one.get_actions(0), one.get_rewards(0)) for one in drawn]
    expected = {
        "obs": np.stack([one[0] for one in ends]),
        "new_obs": np.stack([one[1] for one in ends]),
        "actions": np.array([one[2] for one in ends]),
        "rewards": np.array([one[3] for one in ends]),
        "terminateds": np.array([one.is_terminated for one in drawn]),
    }
    assert rows_of(minibatch.columns) == rows_of(expected)
    assert len(rows_of(minibatch.columns)) == len(ours)
    assert minibatch.columns["truncateds"].any()


def test_the_latest_transitions_are_kept() -> None:
    parts = play(8, every=1, limit=15)
    few, last = ColumnReplayBuffer(10, seed=0), ColumnReplayBuffer(1000, seed=0)
    few.add(parts)
    last.add(parts[-10:])
    assert len(few) == len(last) == 10
    drawn = [rows_of(buffer.sample(num_items=500)[0].columns) for buffer in (few, last)]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize(("run", "env"), [("DQN", "CartPole-v1"), ("SAC", "Pendulum-v1")])
def test_a_seed_gives_the_same_training_twice(run: str, env: str, tmp_path: Path) -> None:
    trained = []
    for name in "ab":
        done = run_smrl(
            *("train", "--out", name, f"rl.training.env={env}", f"rl.training.run={run}", "seed=4"),
            *(
                "rl.training.config.num_steps_sampled_before_learning_starts=100",
                "rl.training.stop.timesteps_total=400",
            ),
            *("rl.training.config.min_sample_timesteps_per_iteration=200", "rl.training.config.train_batch_size=16"),
            *("rl.training.config.min_time_s_per_iteration=0", "rl.training.config.prioritized_replay=false"),
            *("rl.training.export=false", "rl.training.video_freq=0"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        trained.append(read_rows(tmp_path / name / "metrics.jsonl"))
    for first, second in zip(*trained, strict=True):
        assert {**first, "time_total_s": 0} == {**second, "time_total_s": 0}
    assert len(trained[0]) > 1
    assert "total_loss" in trained[0][-1]
