"""A script of Stable-Baselines over MPI, run as it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, OptMl, run_smrl

SCRIPTS = ROOT / "tests" / "scripts_2020" / "stable_baselines"
PRESET = "preset-inverted-pendulum.py"
# As the notebook has them.
METRICS = (
    r"\[.*,.*\]\<stdout\>\:\| *EpLenMean *\| *([-+]?[0-9]*\.?[0-9]*) *\|",
    r"\[.*,.*\]\<stdout\>\:\| *EpRewMean *\| *([-+]?[0-9]*\.?[0-9]*) *\|",
    r"\[.*,.*\]\<stdout\>\:\| *EpisodesSoFar *\| *([-+]?[0-9]*\.?[0-9]*) *\|",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the scripts, as a user has them."""
    shutil.copytree(SCRIPTS, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def test_a_job_of_sagemaker_trains_with_ppo1s_settings(opt_ml: OptMl, folder: Path) -> None:
    output = opt_ml.base / "output"
    hyperparameters = {
        "RLSTABLEBASELINES_PRESET": f'"{PRESET}"',
        "num_timesteps": "4096.0",
        "gamma": "0.98",
        "instance_type": '"local"',
        "output_path": json.dumps(str(output / "intermediate")),
        "sagemaker_program": '"train_stable_baselines.py"',
    }
    opt_ml.write(hyperparameters)
    opt_ml.add_code(*folder.iterdir())
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    values = json.loads((output / "data" / "config.json").read_text())["values"]
    expected = {
        "env": "RoboschoolInvertedPendulum-v1",
        "run": "PPO",
        "stop.timesteps_total": 4096,
        "config.seed": 0,
        "config.gamma": 0.98,
        "config.lambda_": 0.95,
        "config.train_batch_size": 1024,
        "config.minibatch_size": 64,
        "config.num_epochs": 10,
        "config.lr": [[0, 0.0003], [4096, 0.0]],
        "config.clip_param": 0.2,
        "config.model.fcnet_hiddens": [64, 64],
    }
    assert {name: values[name] for name in expected} == expected
    last = opt_ml.rows[-1]
    found = [float(re.findall(metric, done.log)[-1]) for metric in METRICS]
    assert found == pytest.approx(
        [last["episode_len_mean"], last["episode_reward_mean"], last["episodes_total"]], rel=1e-5
    )
    assert (output / "intermediate" / "rl_out.mp4").stat().st_size > 1000
    assert (opt_ml.base / "model" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("        lam=float(args.lam),\n", "        lamb=float(args.lam),\n", "Did you mean 'lam'?"),
        ("        lam=float(args.lam),\n", "", "lam: missing in the script; expected a number."),
        ("gamma=args.gamma", 'gamma="high"', "gamma: got 'high' from the script; expected a number."),
        ("schedule=args.schedule", 'schedule="cosine"', "expected one of constant, linear."),
        (
            "RoboschoolInvertedPendulum-v1",
            "RoboschoolInvertedPendulun-v1",
            "Did you mean 'RoboschoolInvertedPendulum-v1'?",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(old: str, new: str, message: str, folder: Path) -> None:
    text = (folder / PRESET).read_text()
    assert old in text
    (folder / PRESET).write_text(text.replace(old, new))
    done = run_smrl("run", PRESET, cwd=folder)
    assert done.returncode != 0
    assert message in done.stderr


def test_a_script_that_is_not_there_is_named(folder: Path) -> None:
    done = run_smrl("run", "train_stable_baselines.py", "--RLSTABLEBASELINES_PRESET", "preset-ant.py", cwd=folder)
    assert done.returncode != 0
    assert f"MPILauncher: got the script 'preset-ant.py'; expected one of {PRESET}" in done.stderr
