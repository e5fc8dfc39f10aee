"""Action masks through whole jobs, in an environment that raises at an action that its mask does not allow."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from runtime.outputs.metrics import read_rows
from tests.conftest import ROOT, run_smrl
from tests.servers import Server, started

pytestmark = [pytest.mark.slow, pytest.mark.ray]
ENV = "rl.training.env=tests.toy_envs:Shelves"
SMALL = [
    *("rl.training.config.num_env_runners=0", "rl.training.config.num_envs_per_env_runner=4"),
    *("rl.training.config.train_batch_size=128", "rl.training.config.minibatch_size=64"),
    *("rl.training.config.num_epochs=2", "rl.training.video_freq=0", "rl.training.config.seed=3"),
]
# Of three standard normal numbers that are taken from the largest to the smallest, at 1/2, 1/4 and 1/8 of their value:
# the largest and smallest of three have the means ±0.846. Any order at random has the mean 0.
BEST = 0.846 * (1 / 2 - 1 / 8)


def train(*words: str, out: Path) -> subprocess.CompletedProcess[str]:
    return run_smrl("train", "--out", str(out), ENV, *words, cwd=ROOT, timeout_s=600)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of a policy that learned with masks; not to be written to."""
    out = tmp_path_factory.mktemp("masks") / "results"
    words = ["rl.training.config.observation_filter=MeanStdFilter", "rl.training.stop.timesteps_total=12000"]
    words += ["rl.training.config.env_config.other=trading_state", "rl.training.config.lr=0.003"]
    words += ["rl.training.config.train_batch_size=1024", "rl.training.config.minibatch_size=128"]
    words += ["rl.training.config.num_envs_per_env_runner=8", "rl.training.config.num_env_runners=0"]
    words += ["rl.training.config.gamma=0.9", "rl.training.config.num_epochs=10", "rl.training.config.seed=1"]
    done = train(*words, "rl.training.video_freq=0", out=out)
    assert done.returncode == 0, done.stderr
    assert "sampling on arrays, gradients PyTorch's (the network takes action masks)" in done.stderr
    return out


def test_a_masked_policy_learns_and_is_evaluated_with_its_masks(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    done = run_smrl("evaluate", str(copy), "evaluate_episodes=400", "seed=1", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((copy / "evaluation" / "evaluation.json").read_text())
    assert len(found["episodes"]) == 400
    assert found["mean_reward"] > 0.8 * BEST - 2 * found["std_reward"] / 20


def test_exported_policies_take_the_mask_as_an_input(results: Path) -> None:
    model = results / "model"
    manifest = json.loads((model / "manifest.json").read_text())
    assert [export["format"] for export in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    for export in manifest["exports"]:
        assert export["inputs"]["observations"]["shape"] == [-1, 4]
        assert export["inputs"]["action_mask"] == {"dtype": "float32", "shape": [-1, 4]}
    session = onnxruntime.InferenceSession(model / "policy.onnx")
    seen = np.repeat(np.array([[60, 55, 45, 40]], np.float32), 3, axis=0)
    masks = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    actions, chances = session.run(["actions", "action_prob"], {"observations": seen, "action_mask": masks})
    assert actions.tolist() == [0, 1, 3]  # the largest that is left
    assert chances[2] == 1


@pytest.fixture(scope="module")
def server(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("serve"), str(results), "--workers", "1") as running:
        running.wait_until(200)
        yield running


SEEN = [60, 55, 45, 40]
OLD = {"prev_action": 0, "is_training": False, "prev_reward": 0, "seq_lens": 1}


def test_a_request_has_the_mask_as_a_field(server: Server) -> None:
    two = [{"observations": SEEN, "action_mask": mask} for mask in ([1, 1, 1, 1], [0, 0, 1, 1])]
    assert server.invoke(two[1]) == {"predictions": [2]}
    assert server.invoke({"instances": two}) == {"predictions": [0, 2]}
    columns = {name: [row[name] for row in two] for name in two[0]}
    assert server.invoke({"inputs": columns, "signature_name": "observations_only"}) == {"outputs": [0, 2]}
    assert server.invoke({"inputs": {**columns, **OLD}})["outputs"]["actions"] == [0, 2]
    lines = "".join(json.dumps(row) + "\n" for row in two)
    assert server.invoke(lines, {"Content-Type": "application/jsonlines", "Accept": "application/json"}) == {
        "predictions": [0, 2]
    }
    row = ",".join(map(str, [*SEEN, 0, 1, 1, 1]))
    assert server.invoke(row, {"Content-Type": "text/csv"}) == {"predictions": [1]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"observations": SEEN}, "body: got no action_mask beside the observations"),
        ({"instances": [SEEN]}, "expected objects with the keys ['action_mask', 'observations']"),
        ({"inputs": {"observations": [SEEN]}}, "Missing named input: action_mask in 'inputs' object."),
        ({"observations": SEEN, "action_mask": [0, 0, 0, 0]}, "action_mask[0]: got a mask that allows no action"),
        ({"observations": SEEN, "action_mask": [0, 0, 0.5, 1]}, "action_mask[0, 2]: got 0.5; expected 0 or 1."),
        ({"observations": SEEN, "action_mask": [1, 1]}, "action_mask: got shape (1, 2); expected (batch, 4)"),
        ({"observations": SEEN, "action_mask": ["a"] * 4}, "action_mask: got 'a'; expected 0 or 1 in nested lists."),
        ({"observations": [SEEN] * 2, "action_mask": [[1] * 4]}, "action_mask: got 1 masks; expected 2"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_request_without_a_valid_mask_is_refused(server: Server, body: object, message: str) -> None:
    status, error = server.refusal(body)
    assert status == 400
    assert message in error


def test_exploring_samples_allowed_actions_alone(results: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(results), "--workers", "1", "--epsilon", "1", "--temperature", "1e9") as running:
        running.wait_until(200)
        rows = [{"observations": SEEN, "action_mask": [0, 1, 0, 1]}] * 200
        decisions = running.invoke({"instances": rows})["decisions"]
    actions = [decision["action"] for decision in decisions]
    assert set(actions) == {1, 3}
    assert {decision["action_prob"] for decision in decisions} == {0.5}


@pytest.mark.parametrize(
    "words",
    [
        ["rl.training.fast=false", "rl.training.stop.timesteps_total=512"],
        ["rl.training.config.batch_mode=complete_episodes", "rl.training.stop.timesteps_total=512"],
        ["rl.training.config.num_env_runners=1", "rl.training.stop.timesteps_total=256"],
    ],
    ids=["RLlib's own code", "whole episodes", "an env runner beside the learner"],
)
def test_no_path_takes_a_masked_action(words: list[str], tmp_path: Path) -> None:
    done = train(*SMALL, "rl.training.config.observation_filter=MeanStdFilter", *words, out=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["episode_len_mean"] == 3  # the last mask of each allows nothing
    assert len(json.loads((tmp_path / "model" / "manifest.json").read_text())["exports"]) == 3


def test_dqn_takes_no_masked_action_and_exports_with_the_mask(tmp_path: Path) -> None:
    words = ["rl.training.run=DQN", "rl.training.config.seed=1", "rl.training.video_freq=0"]
    words += ["rl.training.config.num_steps_sampled_before_learning_starts=64"]
    words += ["rl.training.config.min_sample_timesteps_per_iteration=100", "rl.training.stop.timesteps_total=400"]
    done = train(*words, out=tmp_path)
    assert done.returncode == 0, done.stderr
    exports = json.loads((tmp_path / "model" / "manifest.json").read_text())["exports"]
    assert [export["inputs"]["action_mask"]["shape"] for export in exports] == [[-1, 4]] * 3


def test_a_job_whose_mask_allows_no_action_says_where(tmp_path: Path) -> None:
    done = train(*SMALL, "rl.training.config.env_config.empty_at=1", out=tmp_path)
    assert done.returncode == 2, done.stderr
    message = "environment tests.toy_envs:Shelves: got an action_mask that allows no action after step 1 of an episode"
    assert message in done.stderr
