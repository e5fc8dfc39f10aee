"""The Python API, as docs/first-steps.md uses it, on the environment that examples/ ships."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smrl
from runtime.errors import UserError
from tests.conftest import ROOT, clean_environment

SCRIPT = """\
import sys
import smrl

heavy = {"torch", "ray", "pandas", "gymnasium", "numpy"} & set(sys.modules)
assert not heavy, heavy

if __name__ == "__main__":
    tiny = {
        "rl.training.stop.training_iteration": 2,
        "rl.training.config.train_batch_size": 400,
        "rl.training.config.minibatch_size": 200,
        "rl.training.config.seed": 1,
    }
    folder = smrl.train("my_module:Cart", tiny, out="results/cart")
    metrics = smrl.read(folder)
    assert list(metrics.index) == [1, 2], metrics
    assert metrics["episode_reward_mean"].between(-100, 0).all(), metrics  # 50 steps, at most 2 from the middle
    report = smrl.evaluate(folder, {"evaluate_episodes": 3, "seed": 1})
    assert len(report["episodes"]) == 3, report
    assert int(smrl.load(folder).act([0.5, 0.0])) in range(3)
    assert int(smrl.load(folder, checkpoint="best").act([0.5, 0.0])) in range(3)
    again = smrl.train("my_module:Cart", {**tiny, "rl.training.stop.training_iteration": 3}, out=folder)
    assert again == folder
    assert list(smrl.read(folder).index) == [1, 2, 3]
"""


@pytest.mark.slow
@pytest.mark.ray
def test_the_example_goes_from_an_environment_to_a_policy_that_acts(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "my_module.py", tmp_path)
    (tmp_path / "steps.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "steps.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "cart" / "report.html").is_file()


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"smrl\.read: got .* which holds no row of metrics\.jsonl"):
        smrl.read(tmp_path)


def test_an_unknown_setting_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rl\.training\.config\.gama: got 0\.9 from smrl\.train; .*'gamma'"):
        smrl.train("CartPole-v1", {"rl.training.config.gama": 0.9}, out=tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model: got .* which has no manifest\.json"):
        smrl.load(tmp_path)


def test_the_module_is_a_program_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "smrl", "train", "rl.training.config.gama=0.9"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'gamma'?" in done.stderr
