"""Transitions that a training logs, and what learns from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from runtime.compat.agents import PPOTrainer
from runtime.environments.spec import EnvSpec, make_env
from runtime.errors import PlatformError
from runtime.offline.data.reading import read_transitions
from runtime.policies.spaces import mask_size
from runtime.rllib.transition_log import TransitionLog
from tests.conftest import ROOT, run_smrl

SCRIPT = ROOT / "tests" / "scripts_2020" / "train-logging.py"


def test_whole_episodes_are_logged_as_they_were(tmp_path: Path) -> None:
    """The third episode, which does not end, is left out; the second ends by its time limit."""
    env = TransitionLog(gymnasium.make("CartPole-v1", max_episode_steps=12), str(tmp_path / "log"), worker=2, number=1)
    played = []
    for actions in ([1] * 20, [0, 1] * 10, [0, 1]):
        steps = [env.reset(seed=3)[0]]
        for action in actions:
            observation, _, terminated, truncated, _ = env.step(action)
            steps.append(observation)
            if terminated or truncated:
                played.append(steps)
                break
    env.close()
    (path,) = (tmp_path / "log").iterdir()
    assert path.name.endswith("_worker-2_1.json")
    data = read_transitions(tmp_path / "log")
    assert data.starts.tolist() == [0, len(played[0]) - 1]
    np.testing.assert_allclose(data.observations[: len(played[0]) - 1], played[0][:-1], rtol=1e-6)
    batches = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(sum(one["terminateds"]), sum(one["truncateds"])) for one in batches] == [(1, 0), (0, 1)]
    np.testing.assert_allclose(batches[1]["new_obs"][-1], played[1][-1], rtol=1e-6)


def test_masks_are_logged_apart_and_read_as_a_part_of_the_state(tmp_path: Path) -> None:
    env = TransitionLog(make_env(EnvSpec("tests.toy_envs:Shelves")), str(tmp_path), worker=0, number=0)
    observation, _ = env.reset(seed=0)
    masked = mask_size(env.observation_space)
    first, has_ended = observation, False
    while not has_ended:
        observation, _, terminated, truncated, _ = env.step(int(np.argmax(observation[-masked:])))
        has_ended = terminated or truncated
    env.close()
    (path,) = tmp_path.iterdir()
    batch = json.loads(path.read_text())
    np.testing.assert_allclose(batch["obs"][0], first[:-masked], rtol=1e-6)
    assert batch["action_mask"][0] == first[-masked:].tolist()
    data = read_transitions(tmp_path)
    assert data.mask_size == masked
    np.testing.assert_allclose(data.observations[0], first, rtol=1e-6)


def test_a_log_without_the_masks_of_its_environment_is_refused(tmp_path: Path) -> None:
    rows = "\n".join(f"0.1,0.2,0.3,1,1,1,{episode % 2},0.5,{episode}" for episode in range(12))
    names = ",".join(f"state_feature_{i}" for i in range(6))
    (tmp_path / "log.csv").write_text(f"{names},action,reward,episode_id\n{rows}\n")
    words = (
        "rl.training.env=tests.toy_envs:Shelves",
        "--data",
        str(tmp_path / "log.csv"),
        "--out",
        str(tmp_path / "out"),
    )
    done = run_smrl("train", *words, cwd=ROOT)
    assert done.returncode == 2
    assert "got no action_mask; expected" in done.stderr
    assert "Log the environment with `smrl collect`, which writes its masks." in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match=r"rl.training.config.output: .*file.*cannot be written"):
        TransitionLog(gymnasium.make("CartPole-v1"), str(tmp_path / "file" / "log"), worker=0, number=0)


@pytest.mark.system
def test_a_script_of_2020_logs_and_another_learns_from_the_log(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path)
    for words in (("--log_to", "log"), ("--learn_from", "log", "--rl.training.stop.training_iteration", "1")):
        done = run_smrl("run", SCRIPT.name, *words, "--rl.training.video_freq", "0", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    data = read_transitions(tmp_path / "log")
    assert len(data.starts) >= 60
    assert "rl.training.run=IMPALA learns as it acts; BCQ learns from the log" in done.stderr
    assert "left out: config.use_pytorch" in done.stderr
    (results,) = (one for one in (tmp_path / "results").iterdir() if (one / "ope.json").is_file())
    agent = PPOTrainer(env="CartPole-v1")
    agent.restore(str(results / "model" / "checkpoint"))
    assert agent.compute_action(np.zeros(4, np.float32)) in (0, 1)


def test_an_environment_whose_steps_are_not_logged_is_refused(tmp_path: Path) -> None:
    done = run_smrl("train", "--preset", "deepracer", "output=log", cwd=tmp_path)
    assert done.returncode == 2
    assert "rl.training.config.output: got 'log' from the command line" in done.stderr
