"""Scripts of Coach, run as they are: what they train, write and refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.artifacts.checkpoint import JobState
from runtime.artifacts.manifest import largest_difference
from runtime.compat.coach.outputs import EpisodeLog
from tests.conftest import ROOT, OptMl, clean_environment, run_smrl

SCRIPTS = ROOT / "tests" / "scripts_2020" / "coach"
CSV = "worker_0.simple_rl_graph.main_level.main_level.agent_0.csv"
SHORT = ("--rl.training.video_freq", "0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the scripts, as a user has them: files in the repository are ours, and get no stand-ins."""
    shutil.copytree(SCRIPTS, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def train(folder: Path, *words: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Runs train-coach.py; returns its results folder."""
    done = run_smrl("run", "train-coach.py", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    (results,) = (folder / "results").iterdir()
    return results, done


def refuse(folder: Path, *words: str) -> str:
    """Runs train-coach.py, which must refuse before it trains; returns stderr."""
    done = run_smrl("run", "train-coach.py", *words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert not (folder / "results").exists()
    return done.stderr


def values_of(results: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((results / "config.json").read_text())["values"]
    return values


def episodes_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def manifest_of(results: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((results / "model" / "manifest.json").read_text())
    return manifest


def test_clipped_ppo_trains_what_its_preset_says_and_writes_what_notebooks_read(folder: Path) -> None:
    results, done = train(folder, "--discount", "0.97", "--evaluation_episodes", "3", "--save_model", "1")
    values = values_of(results)
    expected = {
        "env": "CartPole-v0",
        "run": "PPO",
        "config.gamma": 0.97,
        "config.lambda_": 0.95,
        "config.lr": 0.0003,
        "config.train_batch_size": 2048,
        "config.minibatch_size": 64,
        "config.num_epochs": 10,
        "config.clip_param": 0.2,
        "config.entropy_coeff": 0.0,
        "config.observation_filter": "MeanStdFilter",
        "config.model.fcnet_hiddens": [32, 48],
        "config.model.fcnet_activation": "tanh",
        "stop.timesteps_total": 4096,
    }
    assert {name: values[name] for name in expected} == expected
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    episodes = episodes_of(results / CSV)
    assert [int(row["Episode #"]) for row in episodes] == list(range(1, rows[-1]["episodes_total"] + 1))
    last = [float(row["Training Reward"]) for row in episodes[-100:]]
    assert np.mean(last) == pytest.approx(rows[-1]["episode_reward_mean"])
    lines = [line for line in done.stdout.splitlines() if line.startswith("Training>")]
    assert len(lines) == len(episodes)
    assert f"Total reward={float(episodes[-1]['Training Reward']):g}," in lines[-1]
    (gif,) = (results / "gifs").glob(f"*episode-{len(episodes)}_*.gif")
    assert gif.read_bytes().startswith(b"GIF8")
    assert (results / "model" / "1" / "saved_model.pb").is_file()
    assert largest_difference(manifest_of(results)["exports"]) < 1e-4
    assert "_save_tf_model and _save_onnx_model of the script are not called" in done.stderr


def test_a_dueling_double_dqn_learns_a_custom_environment(folder: Path) -> None:
    results, _ = train(folder, "--RLCOACH_PRESET", "preset-corridor-ddqn")
    values = values_of(results)
    assert (values["run"], values["config.double_q"], values["config.dueling"]) == ("DQN", True, True)
    assert values["config.training_intensity"] == 32 / 4
    assert values["config.epsilon"] == [[0, 1.0], [200, 1.0], [1200, 0.01]]
    assert values["config.model.head_fcnet_hiddens"] == [512]
    assert [float(row["Training Reward"]) for row in episodes_of(results / CSV)[-20:]] == pytest.approx(
        [97] * 20, abs=8
    )
    assert largest_difference(manifest_of(results)["exports"]) < 1e-4


def test_dqn_of_a_preset_that_imports_everything(folder: Path) -> None:
    results, _ = train(folder, "--RLCOACH_PRESET", "preset-cartpole-dqn.py", "--rl.improve_steps", "100", *SHORT)
    values = values_of(results)
    assert (values["run"], values["config.double_q"], values["config.dueling"]) == ("DQN", False, False)
    assert values["config.td_error_loss_fn"] == "mse"
    assert values["config.model.fcnet_hiddens"] == [256, 512]  # Coach's schemes Medium
    assert values["stop.timesteps_total"] == 300  # with the heatup
    assert values["video_freq"] == 0


def test_an_actor_critic_is_ppo_and_learns_from_rescaled_rewards(folder: Path) -> None:
    """The loss of the value function is that of returns near 1, while returns are reported as the environment's."""
    results, done = train(folder, "--RLCOACH_PRESET", "preset-corridor-a3c", *SHORT)
    assert "ActorCriticAgentParameters is PPO here" in done.stderr
    assert "rewards are learned from times 0.01 (RewardRescaleFilter)" in done.stderr
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert max(row["vf_loss"] for row in rows) < 2
    assert max(float(row["Training Reward"]) for row in episodes_of(results / CSV)) == 97
    assert values_of(results)["config.grad_clip"] == 40.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--discont", "0.9"), "discont: got '0.9' from the hyperparameters.*Did you mean 'discount'?"),
        (("--rl.agent_params.algorithm.discout", "1"), "expected for 'discout' a name.*Did you mean 'discount'?"),
        (("--rl.improve_steps:TrainingStep", "9"), "expected a type among .*Did you mean 'TrainingSteps'?"),
        (
            ("--rl.agent_params.network_wrappers.main.batch_size", "big"),
            "got 'big' from the hyperparameters; expected a number",
        ),
        (("--RLCOACH_PRESET", "preset-cartpole-dqm"), "Did you mean 'preset-cartpole-dqn'?"),
        (("--rl.training.config.gama", "1"), "Did you mean 'gamma'?"),
        (("--discount",), "expected --NAME VALUE for each"),
    ],
)
def test_hyperparameters_that_nothing_has_are_refused(words: tuple[str, ...], message: str, folder: Path) -> None:
    said = refuse(folder, *words)
    assert re.search(message.replace("?", r"\?"), said), said


def test_all_hyperparameters_that_are_wrong_are_listed(folder: Path) -> None:
    said = refuse(folder, "--rl.agent_params.algorithm.discout", "1", "--rl.env_parms.level", "x")
    assert "2 problems with the hyperparameters of the preset" in said
    assert "Did you mean 'env_params'?" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "algorithm.discount =",
            "algorithm.discont =",
            "line 39: AlgorithmParameters.discont: .*Did you mean 'discount'?",
        ),
        ("clipped_ppo_agent", "ddpg_agent", "line 3: rl_coach.agents.ddpg_agent: .*rl.training.run=SAC"),
        ("clipped_ppo_agent", "cliped_ppo_agent", "Did you mean 'rl_coach.agents.clipped_ppo_agent'?"),
        (
            "ClippedPPOAgentParameters",
            "ClipedPPOAgentParameters",
            "line 3: .*Did you mean 'ClippedPPOAgentParameters'?",
        ),
        ("layers import Dense", "layers import LinearSchedule as Dense", "It is in rl_coach.schedules."),
        ("\ngraph_manager =", "\ngraph =", "got none as graph_manager; expected a BasicRLGraphManager"),
        ("graph_manager = BasicRL", "1 / 0\ngraph_manager = BasicRL", r"line \d+: ZeroDivisionError: division by zero"),
        ('level="CartPole-v0"', 'level="CartPole-v7"', "Did you mean 'CartPole-v1'?"),
        ('level="CartPole-v0"', 'level="coridor_env:CorridorEnv"', "Did you mean 'corridor_env'?"),
        ('level="CartPole-v0"', 'level="corridor_env:Coridor"', "Did you mean 'CorridorEnv'?"),
        (
            "LinearSchedule(1.0, 0, 1000000)",
            "0.5",
            "clipping_decay_schedule: got 0.5 from preset-bad.py; expected a Lin",
        ),
        ("[Dense(32)]", '["x"]', "expected a scheme as Medium, or a list of Dense"),
    ],
)
def test_a_preset_that_cannot_be_trained_says_where(old: str, new: str, message: str, folder: Path) -> None:
    text = (folder / "preset-cartpole-clippedppo.py").read_text()
    assert old in text
    (folder / "preset-bad.py").write_text(text.replace(old, new))
    said = refuse(folder, "--RLCOACH_PRESET", "preset-bad")
    assert re.search(message.replace("?", r"\?"), said), said


def test_a_job_of_sagemaker_and_the_evaluation_of_its_checkpoint(opt_ml: OptMl, folder: Path, tmp_path: Path) -> None:
    hyperparameters = {
        "RLCOACH_PRESET": '"preset-corridor-a3c"',
        "save_model": "1",
        "discount": "0.95",
        "rl.agent_params.algorithm.beta_entropy": "0.02",
        "sagemaker_program": '"train-coach.py"',
    }
    opt_ml.write(hyperparameters)
    opt_ml.add_code(*folder.iterdir())
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    output = opt_ml.base / "output"
    values = json.loads((output / "data" / "config.json").read_text())["values"]
    assert (values["config.gamma"], values["config.entropy_coeff"]) == (0.95, 0.02)
    assert len(episodes_of(output / "intermediate" / CSV)) > 100

    evaluation = OptMl(tmp_path / "evaluation", opt_ml.environment)
    evaluation.write(
        {
            "RLCOACH_PRESET": '"preset-corridor-a3c"',
            "evaluate_steps": "20",
            "sagemaker_program": '"evaluate-coach.py"',
        },
        channels=("checkpoint",),
    )
    shutil.copytree(output / "data" / "checkpoint", evaluation.base / "input/data/checkpoint", dirs_exist_ok=True)
    evaluation.add_code(*folder.iterdir())
    evaluated = evaluation.run()
    assert evaluated.code == 0, evaluated.log[-3000:]
    assert "Testing> Name=main_level/agent, Worker=0, Episode=1, Total reward=97.0," in evaluated.log


@pytest.mark.parametrize(
    ("level", "shape", "size"),
    [("odd_envs:BagEnv", [3], 3), ("odd_envs:WeightsEnv", [32], 32)],
)
def test_environments_with_the_habits_of_2020(level: str, shape: list[int], size: int, folder: Path) -> None:
    words = ("--rl.env_params.level", level, "--improve_steps", "2048")
    argument = ("--rl.env_params.additional_simulator_parameters.window", "8") if size == 32 else ()
    results, _ = train(folder, *words, *argument)
    manifest = manifest_of(results)
    assert manifest["observation_space"]["shape"] == shape
    assert largest_difference(manifest["exports"]) < 1e-4
    lengths = {int(row["Episode Length"]) for row in episodes_of(results / CSV)}
    assert lengths == {20 if size == 3 else 30}


def test_batch_learning_has_our_presets_numbers_and_the_hyperparameters_on_top(folder: Path) -> None:
    log = (
        "--env",
        "CartPole-v0",
        "--envs",
        "10",
        "--episodes",
        "5",
        "--policy",
        "uniform",
        "--out",
        "cartpole_dataset.csv",
    )
    assert run_smrl("collect", *log, cwd=folder).returncode == 0
    words = ("--RLCOACH_PRESET", "preset-cartpole-ddqnbcq", "--discount", "0.95", "--improve_steps", "1")
    results, done = train(folder, *words, "--rl.training.config.updates_per_iteration", "20")
    assert "the numbers are those of smrl's preset cartpole-bcq" in done.stderr
    values = values_of(results)
    expected = {
        "run": "BCQ",
        "data": "cartpole_dataset.csv",
        "config.gamma": 0.95,
        "config.lr": 0.0003,  # of our preset, where Coach's has 0.0001
        "config.updates_per_iteration": 20,
        "stop.training_iteration": 1,
    }
    assert {name: values[name] for name in expected} == expected
    assert (results / "worker_0.batch_rl_graph.main_level.main_level.agent_0.csv").is_file()
    assert not (results / "gifs").exists()  # which the preset asks for, but nothing was played


def test_the_csv_goes_on_where_a_resumed_job_does(tmp_path: Path) -> None:
    path = tmp_path / CSV
    state = JobState("CartPole-v0", [4], "Discrete(2)")
    first = EpisodeLog(path)
    for iteration in (1, 2):
        state.training_iteration = iteration
        state.episodes_total += 2
        first.add([(10.0 * iteration, 10), (11.0 * iteration, 11)], state, steps=100 * iteration)
    state.training_iteration, state.episodes_total = 2, 3  # its checkpoint was of the first iteration
    lines = list(EpisodeLog(path).add([(7.5, 7)], state, steps=150))
    assert lines == [
        "Training> Name=main_level/agent, Worker=0, Episode=3, Total reward=7.5, Steps=150, Training iteration=2"
    ]
    assert [(row["Episode #"], row["Training Reward"]) for row in episodes_of(path)] == [
        ("1", "10.0"),
        ("2", "11.0"),
        ("3", "7.5"),
    ]


def test_tensorflow_is_an_empty_module_for_the_script_alone(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sagemaker_rl, sys\n"
        "import tensorflow as tf\n"
        "import tensorflow.contrib.slim as slim\n"
        "class Model(tf.keras.Model): pass\n"
        "import torch.utils.tensorboard\n"  # which asks for TensorFlow
        "print('tensorflow' in sys.modules)\n"
        "tf.Session(config=None)\n"
    )
    command = [sys.executable, "script.py"]
    environment = {**clean_environment(), "SM_TRAINING_ENV": "{}", "SM_OUTPUT_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
    assert "tensorflow.Session: got a call from the script; expected none" in done.stderr
    (tmp_path / "script.py").write_text("import tensorflow\n")  # a script that has nothing of 2020
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'tensorflow'\n")
