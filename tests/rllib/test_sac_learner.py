"""SAC's learner: what a Q function learns of rewards that are rare and large."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.outputs.metrics import read_rows
from tests.conftest import run_smrl

_LOTTERY = '''
import gymnasium
import numpy as np


class Lottery(gymnasium.Env):
    """Each episode is one step; one in ten pays 100, whatever the action."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 100.0 * (self.np_random.random() < 0.1), True, False, {}
'''


@pytest.mark.slow
def test_a_q_function_learns_the_mean_of_rewards_that_are_rare_and_large(tmp_path: Path) -> None:
    """The Huber loss would learn their median, which is 0."""
    (tmp_path / "lottery.py").write_text(_LOTTERY)
    settings = {
        "actor_lr": 0.003,
        "critic_lr": 0.03,
        "train_batch_size": 32,
        "training_intensity": 16,
        "num_steps_sampled_before_learning_starts": 100,
        "min_time_s_per_iteration": 0,
        "min_sample_timesteps_per_iteration": 250,
        "model.fcnet_hiddens": [16],
    }
    done = run_smrl(
        *("train", "--out", "results", "rl.training.env=lottery:Lottery", "rl.training.run=SAC", "seed=1"),
        *(f"rl.training.config.{name}={value}" for name, value in settings.items()),
        *("rl.training.stop.timesteps_total=500", "rl.training.export=false", "rl.training.video_freq=0"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert read_rows(tmp_path / "results" / "metrics.jsonl")[-1]["qf_mean"] == pytest.approx(10, abs=4)
