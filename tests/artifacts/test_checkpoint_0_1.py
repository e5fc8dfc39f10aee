"""Checkpoints of version 0.1 still open: `checkpoint_0_1` is one, as that version wrote it for a tiny CartPole job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runtime.artifacts.checkpoint import JobState, best_checkpoint, read_state
from tests.conftest import run_smrl

CHECKPOINT = Path(__file__).with_name("checkpoint_0_1")
LIKE_ITS_JOB = [
    *("rl.training.env=CartPole-v1", "rl.training.config.model.fcnet_hiddens=[4]", "rl.training.video_freq=0"),
    *("rl.training.config.train_batch_size=64", "rl.training.config.minibatch_size=32", "rl.training.export=false"),
    "rl.training.config.num_envs_per_env_runner=2",
]


@pytest.mark.ray
@pytest.mark.slow
def test_it_is_resumed_and_evaluated_once_it_is_trusted(tmp_path: Path) -> None:
    words = [*LIKE_ITS_JOB, f"rl.training.restore={CHECKPOINT}", "rl.training.stop.training_iteration=3"]
    refused = run_smrl("train", "--out", "resumed", *words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "trust_checkpoint" in refused.stderr
    resumed = run_smrl("train", "--out", "resumed", *words, "rl.training.trust_checkpoint=true", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "iteration 2, 128 steps" in resumed.stderr
    evaluated = run_smrl("evaluate", str(CHECKPOINT), "trust_checkpoint=true", "--out", "evaluation", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["mean_reward"] > 0


def test_the_state_of_a_deepracer_training_is_found_where_it_is_today(tmp_path: Path) -> None:
    """Version 0.1 had `racing` and `score` beside the counters."""
    for number, score in ((1, 60.0), (2, 40.0)):
        folder = tmp_path / f"checkpoint_00000{number}"
        shutil.copytree(CHECKPOINT, folder)
        described = json.loads((folder / "job.json").read_text())
        described |= {"score": score, "racing": {"metrics": [{"episode": number}], "best": None}}
        (folder / "job.json").write_text(json.dumps(described))
    assert read_state(tmp_path / "checkpoint_000001").extra == {
        "deepracer": {"score": 60.0, "metrics": [{"episode": 1}], "best": None}
    }
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoint_000001"
    assert read_state(CHECKPOINT).extra == JobState("", [], "").extra
