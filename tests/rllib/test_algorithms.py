"""DQN, SAC, IMPALA and APPO as their users run them: train, resume, evaluate, export, serve."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from runtime.artifacts.checkpoint import checkpoints_in, read_state
from runtime.artifacts.manifest import largest_difference, read_manifest
from runtime.artifacts.policy_file import read_policy
from runtime.export.parity import TOLERANCE
from runtime.outputs.metrics import read_rows
from runtime.serving.served_policy import load_policy
from tests.conftest import ROOT, run_smrl

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_QUICK_REPLAY = (
    *("rl.training.config.min_sample_timesteps_per_iteration=40", "rl.training.config.min_time_s_per_iteration=0"),
    *("rl.training.config.num_steps_sampled_before_learning_starts=20", "rl.training.config.train_batch_size=8"),
)
_QUICK_V_TRACE = (
    *("rl.training.config.min_time_s_per_iteration=0", "rl.training.config.min_sample_timesteps_per_iteration=40"),
    *("rl.training.config.train_batch_size=40", "rl.training.config.rollout_fragment_length=10"),
)
_JOBS = {
    "DQN": ("CartPole-v1", _QUICK_REPLAY),
    "SAC": ("Pendulum-v1", _QUICK_REPLAY),
    "IMPALA": ("CartPole-v1", _QUICK_V_TRACE),
    "APPO": ("Pendulum-v1", _QUICK_V_TRACE),
}


def train(name: str, out: Path, iterations: int, *words: str) -> subprocess.CompletedProcess[str]:
    env, quick = _JOBS[name]
    return run_smrl(
        *("train", "--out", str(out), f"rl.training.run={name}", f"rl.training.env={env}", "seed=3", *quick),
        *(f"rl.training.stop.training_iteration={iterations}", "rl.training.config.model.fcnet_hiddens=[16]"),
        *("rl.training.config.horizon=20", "rl.training.checkpoint_freq=1", *words),
        cwd=ROOT,
    )


@pytest.fixture(scope="module", params=_JOBS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name of an algorithm, and the results of two iterations and, after a second start, of a third."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name) / "results"
    for iterations, words in ((2, ("rl.training.export=false", "rl.training.video_freq=0")), (3, ())):
        done = train(name, folder, iterations, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resuming from .*checkpoint_000002: iteration 2, \d+ steps", done.stdout + done.stderr)
    return name, folder


def test_a_second_start_resumes_with_the_steps_of_the_first(trained: tuple[str, Path]) -> None:
    rows = read_rows(trained[1] / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == [1, 2, 3]
    steps = [row["timesteps_total"] for row in rows]
    assert steps[0] >= 40
    assert steps[2] - steps[1] >= 40
    assert steps == sorted(steps)
    assert rows[-1]["episode_len_mean"] == pytest.approx(20, abs=10)
    assert np.isfinite(rows[1]["total_loss"])


def test_the_last_screen_s_files_are_there(trained: tuple[str, Path]) -> None:
    name, folder = trained
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "videos" / "last.mp4").stat().st_size > 1000
    assert (folder / "report.html").is_file()
    manifest = read_manifest(folder / "model")
    assert manifest["algorithm"] == name
    assert manifest["best_checkpoint"] == "best"
    state = read_state(checkpoints_in(folder / "checkpoints")[-1])
    assert state.policy["algorithm"] == name


def test_the_exported_policy_serves_what_the_trained_one_does(trained: tuple[str, Path]) -> None:
    name, folder = trained
    model = folder / "model"
    manifest = read_manifest(model)
    assert sorted(export["file"] for export in manifest["exports"]) == ["1/saved_model.pb", "policy.onnx", "policy.pt2"]
    assert largest_difference(manifest["exports"]) <= TOLERANCE
    policy = read_policy(model / "checkpoint", settings=manifest)
    served = load_policy(model)
    env = gymnasium.make(_JOBS[name][0])
    rows = np.stack([env.reset(seed=seed)[0] for seed in range(8)]).astype(np.float32)
    answers = served.run(rows, (served.main_output,))[served.main_output]
    np.testing.assert_allclose(answers, np.stack(policy.act_many(rows)), atol=1e-5)
    assert all(env.action_space.contains(np.asarray(action, env.action_space.dtype)) for action in answers)


def test_an_evaluation_plays_it(trained: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = trained
    words = ("evaluate", str(folder), "--out", str(tmp_path), "evaluate_episodes=2", "seed=5", f"algorithm={name}")
    done = run_smrl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert [episode["steps"] <= 20 for episode in report["episodes"]] == [True, True]
    assert f"Mean Reward: {report['mean_reward']}" in done.stdout


def test_another_algorithm_does_not_resume_from_it(trained: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = trained
    other = {"DQN": "IMPALA", "IMPALA": "DQN", "SAC": "APPO", "APPO": "SAC"}[name]
    done = train(other, tmp_path / "results", 4, f"rl.training.restore={folder}")
    assert done.returncode == 2
    assert f"got a checkpoint of {name} for a training by {other}" in done.stderr


@pytest.mark.parametrize(
    ("run", "env", "fitting"),
    [("SAC", "CartPole-v1", "PPO, DQN, IMPALA, APPO"), ("DQN", "Pendulum-v1", "PPO, SAC, IMPALA, APPO")],
)
def test_an_algorithm_that_does_not_learn_such_actions_names_those_that_do(
    run: str, env: str, fitting: str, tmp_path: Path
) -> None:
    words = (f"rl.training.run={run}", f"rl.training.env={env}")
    done = run_smrl("train", "--out", str(tmp_path / "results"), *words, cwd=tmp_path)
    assert done.returncode == 2
    assert f"got '{run}' from the command line for the environment {env}, whose actions are" in done.stderr
    assert f"Set rl.training.run to one that learns these: {fitting}." in done.stderr
