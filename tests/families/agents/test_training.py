"""Several agents through whole jobs: shared and separate policies, from training to what is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import smrl
from runtime.artifacts.checkpoint import checkpoints_in
from runtime.errors import UserError
from runtime.outputs.metrics import read_rows
from runtime.serving.served_policy import load_policy
from tests.conftest import ROOT, run_smrl

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SMALL = ("num_env_runners=0", "train_batch_size=256", "minibatch_size=64", "num_epochs=2", "--seed", "3")


def train(env: str, *words: str, out: Path) -> subprocess.CompletedProcess[str]:
    return run_smrl("train", "--out", str(out), "--env", env, *words, cwd=ROOT, timeout_s=600)


@pytest.fixture(scope="module")
def hunt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of two policies, one for two agents of three; not to be written to."""
    out = tmp_path_factory.mktemp("hunt") / "results"
    words = (*SMALL, "policies=wolf,sheep", "training_iteration=3", "checkpoint_freq=1")
    done = train("examples.agents:Hunt", *words, out=out)
    assert done.returncode == 0, done.stderr
    assert "sampling and learning by RLlib's own code: several agents act" in done.stderr
    assert f"smrl serve {out / 'model' / 'wolf'}" in done.stdout
    return out


def test_each_policy_has_its_own_metrics(hunt: Path) -> None:
    rows = read_rows(hunt / "metrics.jsonl")
    assert [row["timesteps_total"] for row in rows] == [256, 512, 768]
    for row in rows[1:]:
        # The nearer wolf's distance d pays the sheep 10 d, the first wolf -10 d, and the second its first five steps.
        total = row["episode_reward_mean"]
        assert total == pytest.approx(row["episode_reward_mean_sheep"] + 2 * row["episode_reward_mean_wolf"])
        assert total < 0 < row["episode_reward_mean_sheep"]
        assert row["episode_len_mean"] == 10
        for policy in ("wolf", "sheep"):
            assert {f"{name}_{policy}" for name in ("policy_loss", "vf_loss", "entropy", "kl")} <= row.keys()


def test_a_training_of_several_agents_resumes(hunt: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(hunt, tmp_path / "results")
    done = run_smrl("resume", str(copy), "training_iteration=4", cwd=ROOT, timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert "iteration 3, 768 steps" in done.stderr
    rows = read_rows(copy / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["timesteps_total"] == 4 * 256
    assert rows[-1]["episodes_total"] > rows[-2]["episodes_total"]
    assert checkpoints_in(copy / "checkpoints")[-1].name == "checkpoint_000004"


def test_all_policies_are_evaluated_together(hunt: Path, tmp_path: Path) -> None:
    done = run_smrl("evaluate", str(hunt), "--out", str(tmp_path), "evaluate_episodes=3", "--seed", "5", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [episode["steps"] for episode in found["episodes"]] == [10, 10, 10]
    assert found["mean_reward"] < 0
    agents = [episode["agents"] for episode in found["episodes"]]
    assert all({*returns} == {"wolf_0", "wolf_1", "sheep_0"} for returns in agents)
    assert [sum(returns.values()) for returns in agents] == pytest.approx(
        [episode["total_reward"] for episode in found["episodes"]]
    )
    means = found["mean_reward_by_policy"]
    assert means["sheep"] == pytest.approx(np.mean([returns["sheep_0"] for returns in agents]))
    assert means["wolf"] == pytest.approx(np.mean([[returns["wolf_0"], returns["wolf_1"]] for returns in agents]))
    assert f"Mean Reward of wolf: {means['wolf']}" in done.stdout
    alone = run_smrl("evaluate", str(hunt / "model" / "wolf"), "--out", str(tmp_path), cwd=ROOT)
    assert alone.returncode == 2
    assert "one policy of several agents; expected the model of all" in alone.stderr


def test_each_policy_is_exported_into_a_model_directory_that_serves(hunt: Path) -> None:
    model = hunt / "model"
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["policies"] == {"wolf": ["wolf_0", "wolf_1"], "sheep": ["sheep_0"]}
    assert {export["file"] for export in manifest["exports"]} == {
        f"{policy}/{file}" for policy in ("wolf", "sheep") for file in ("1/saved_model.pb", "policy.onnx", "policy.pt2")
    }
    seen = {"wolf_0": np.array([0.5, -0.5, 0.1], np.float32), "sheep_0": np.array([0.1, 0.5], np.float32)}
    acted = smrl.load(hunt).act(seen)
    for agent, row in seen.items():
        session = onnxruntime.InferenceSession(model / agent[:-2] / "policy.onnx")
        (actions,) = session.run(["actions"], {"observations": row[None]})
        assert actions[0] == pytest.approx(acted[agent], abs=1e-5)
        served = load_policy(model / agent[:-2])
        assert served.observation_shape == row.shape
    with pytest.raises(UserError, match=re.escape(f"expected one of them, as a server has one. Serve {model}/")):
        load_policy(hunt)


def test_cooperating_agents_learn_with_one_policy_and_are_recorded(tmp_path: Path) -> None:
    words = ("num_env_runners=0", "train_batch_size=1024", "minibatch_size=128", "num_epochs=6", "lr=0.003", "--seed=1")
    done = train("examples.agents:Meet", *words, "gamma=0.9", "training_iteration=12", out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out" / "metrics.jsonl")
    # Two uniform positions on a line of length 2 are 2/3 apart; agents that stay get -2/3 a step each.
    assert rows[-1]["episode_reward_mean"] > 0.5 * -2 * 20 * 2 / 3 > rows[0]["episode_reward_mean"] * 0.9
    assert rows[-1]["episode_reward_mean_shared"] == pytest.approx(rows[-1]["episode_reward_mean"] / 2)
    assert (tmp_path / "out" / "videos" / "last.mp4").stat().st_size > 500


def test_a_game_of_pettingzoo_trains_in_remote_env_runners(tmp_path: Path) -> None:
    words = ("num_env_runners=1", "train_batch_size=128", "minibatch_size=64", "num_epochs=1", "training_iteration=2")
    done = train(
        *("pettingzoo.classic.rps.rps:parallel_env", *words, "policies=first,second", "video_freq=0"),
        'policy_mapping={"player_0": "first", "player_": "second"}',
        out=tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    row = read_rows(tmp_path / "out" / "metrics.jsonl")[-1]
    assert row["episode_reward_mean"] == 0  # what one wins, the other loses
    assert row["episode_reward_mean_first"] == pytest.approx(-row["episode_reward_mean_second"])
    manifest = json.loads((tmp_path / "out" / "model" / "second" / "manifest.json").read_text())
    assert manifest["agents"] == ["player_1"]
    assert manifest["observation_space"]["shape"] == [4]  # one of four, one-hot
