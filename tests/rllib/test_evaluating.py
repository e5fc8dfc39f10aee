"""Evaluation while training, which chooses the best checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.artifacts.checkpoint import read_state
from runtime.environments.spec import EnvSpec
from runtime.outputs.metrics import read_rows
from runtime.rllib.evaluating import Evaluator
from tests.conftest import TINY, run_smrl

TINY_WORDS = [f"{name}={value}" for name, value in TINY.items()]


class Always:
    """Takes one action, and remembers the first observation of each episode."""

    takes_masks = False

    def __init__(self, action: Any) -> None:
        self._action = action
        self.starts: list[bytes] = []
        self._is_first = True

    def reset(self) -> None:
        self._is_first = True

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        if self._is_first:
            self.starts.append(np.asarray(observation).tobytes())
        self._is_first = False
        return self._action


def test_an_evaluation_is_the_mean_return_of_whole_episodes() -> None:
    evaluator = Evaluator(EnvSpec("tests.toy_envs:NoFrames"), episodes=3, seed=0)
    assert evaluator.evaluate(Always(1)) == 10.0
    assert evaluator.evaluate(Always(0)) == 0.0
    evaluator.close()


def test_every_evaluation_has_the_same_starts_and_its_episodes_do_not() -> None:
    evaluator = Evaluator(EnvSpec("CartPole-v1"), episodes=4, seed=1)
    policy = Always(0)
    evaluator.evaluate(policy)
    evaluator.evaluate(policy)
    evaluator.close()
    assert policy.starts[:4] == policy.starts[4:]
    assert len(set(policy.starts)) == 4


@pytest.mark.ray
def test_evaluations_choose_the_best_checkpoint_and_leave_the_training_as_it_was(
    tiny_results: Path, tmp_path: Path
) -> None:
    words = ("train", "--preset", "reacher", "--seed", "7", "training_iteration=8", "checkpoint_freq=2")
    extra = ("evaluation_episodes=2", "video_interval_s=0.001")
    done = run_smrl(*words, *TINY_WORDS, *extra, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    rows, plain = read_rows(out / "metrics.jsonl"), read_rows(tiny_results / "metrics.jsonl")
    scores = {
        row["training_iteration"]: row["evaluation_reward_mean"] for row in rows if "evaluation_reward_mean" in row
    }
    assert list(scores) == [2, 4, 6, 8]
    assert "evaluation_reward_mean: " in done.stdout
    for name in ("episode_reward_mean", "total_loss", "entropy"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in plain]
    best = read_state(out / "model" / "best")
    assert scores[best.training_iteration] == max(scores.values()) == best.extra["evaluation"]["score"]
    # Each iteration lasts longer than a millisecond; the last one's video is last.mp4.
    videos = sorted(path.name for path in (out / "videos").glob("*.mp4"))
    assert videos == [*(f"iteration-{number:06d}.mp4" for number in range(1, 8)), "last.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "deepracer"), "expected none, as DeepRacer evaluates the car after each iteration"),
        (("--preset", "cartpole-bcq"), "expected a setting of BCQ"),
    ],
)
def test_a_job_that_evaluates_in_its_own_way_refuses_the_setting(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run_smrl("train", *words, "evaluation_episodes=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "rl.training.config.evaluation_episodes: got 3 from the command line" in done.stderr
    assert message in done.stderr
