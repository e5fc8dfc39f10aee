"""SAC on a car's camera: a training, its second start, its records, its evaluation and its exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from envs.deepracer.metadata import DEFAULT, parse_metadata
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.artifacts.checkpoint import read_state
from runtime.artifacts.manifest import largest_difference, read_manifest
from runtime.artifacts.policy_file import read_policy
from runtime.container.layout import Container
from runtime.errors import UserError
from runtime.export.parity import TOLERANCE
from runtime.families.deepracer.driving import Explorer
from runtime.families.deepracer.grad_cam import find_heat
from runtime.families.deepracer.hyperparameters import describe_hyperparameters
from runtime.families.deepracer.job_files import JobFile
from runtime.families.deepracer.preparation import prepare_cars
from runtime.jobs.catalog import resolve
from runtime.jobs.deepracer_training_worker import as_overrides, read_hyperparameters
from runtime.outputs.metrics import read_rows
from runtime.settings.resolve import Source
from runtime.settings.schema import JobConfig
from tests.conftest import ROOT, run_smrl
from tests.families.deepracer.test_car_model import CONTINUOUS, make_car, make_rows

_EXAMPLE = ROOT / "examples" / "deepracer" / "sac_metadata.json"
_QUICK = (
    *("min_sample_timesteps_per_iteration=60", "min_time_s_per_iteration=0", "training_intensity=0.5"),
    *("num_steps_sampled_before_learning_starts=40", "train_batch_size=4", "buffer_size=500"),
    *("model.head_fcnet_hiddens=[16]", "model.fcnet_hiddens=[16]"),
)


def train(out: Path, iterations: int, *words: str) -> str:
    done = run_smrl(
        *("train", "--out", str(out), "rl.training.env=DeepRacer-v0", "rl.training.run=SAC", "seed=3"),
        *(f"rl.training.config.{word}" for word in _QUICK),
        f"rl.training.config.env_config.model_metadata={_EXAMPLE}",
        *(f"rl.training.stop.training_iteration={iterations}", "rl.training.video_freq=0", *words),
        cwd=out.parent,
        timeout_s=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results of an iteration, and of a second one after another start; and what the second start printed."""
    out = tmp_path_factory.mktemp("sac") / "results"
    train(out, 1, "rl.training.export=false")
    return out, train(out, 2)


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_start_resumes_and_learns_from_pictures(trained: tuple[Path, str]) -> None:
    out, said = trained
    assert re.search(r"resuming from .*checkpoint_000001: iteration 1, \d+ steps", said)
    rows = read_rows(out / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == [1, 2]
    for row in rows:
        assert all(np.isfinite(row[name]) for name in ("qf_loss", "policy_loss", "alpha", "evaluation_progress_mean"))
    assert rows[1]["timesteps_total"] >= rows[0]["timesteps_total"] + 60


@pytest.mark.ray
@pytest.mark.slow
def test_the_records_are_deepracers(trained: tuple[Path, str]) -> None:
    folder = trained[0] / "deepracer"
    metrics = json.loads((folder / "training_metrics.json").read_text())["metrics"]
    training = [row for row in metrics if row["phase"] == "training"]
    assert [row["episode"] for row in training] == list(range(1, len(training) + 1))
    assert sum(row["phase"] == "evaluation" for row in metrics) == 10
    assert len(training) == read_rows(trained[0] / "metrics.jsonl")[-1]["episodes_total"]
    steps = [
        line.split(",")
        for path in sorted((folder / "training-simtrace").glob("*.csv"))
        for line in path.read_text().splitlines()[1:]
    ]
    returns: dict[int, float] = {}
    for step in steps:
        returns[int(step[0])] = returns.get(int(step[0]), 0.0) + float(step[8])
    assert [round(total) for total in returns.values()] == [row["reward_score"] for row in training]
    described = json.loads((folder / "ip" / "hyperparameters.json").read_text())
    assert (described["sac_alpha"], described["batch_size"]) == (1.0, 4)


@pytest.mark.ray
@pytest.mark.slow
def test_every_export_acts_as_the_policy_does(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = trained[0]
    manifest = read_manifest(out / "model")
    assert sorted(export["file"] for export in manifest["exports"]) == ["1/saved_model.pb", "policy.onnx", "policy.pt2"]
    assert largest_difference(manifest["exports"]) <= TOLERANCE
    checkpoint = out / "model" / "checkpoint"
    policy = read_policy(checkpoint, settings=read_state(checkpoint).policy)
    pictures = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 1), np.uint8)
    means = policy.logits(pictures)[:, :2]
    np.testing.assert_allclose(np.stack(policy.act_many(pictures)), np.tanh(means), atol=1e-6)
    done = run_smrl("export", str(out), "--car", "fast", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"its steering and speed are within \de-0[78] of the policy's", done.stdout)


@pytest.mark.ray
@pytest.mark.slow
def test_an_evaluation_drives_the_squashed_mean(trained: tuple[Path, str], tmp_path: Path) -> None:
    words = ("evaluate", str(trained[0]), "--out", str(tmp_path / "race"), "number_of_trials=1", "algorithm=SAC")
    done = run_smrl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trace = next((tmp_path / "race").glob("evaluation-*/evaluation-simtrace/0-iteration.csv"))
    speeds = [float(line.split(",")[6]) for line in trace.read_text().splitlines()[1:]]
    assert all(1.2 < speed < 3 for speed in speeds)  # tanh reaches no bound
    done = run_smrl(*words[:-1], "algorithm=PPO", cwd=tmp_path)
    assert done.returncode == 2
    assert "algorithm: got 'PPO'; expected SAC, which trained the model." in done.stderr


def test_a_q_function_joins_the_action_with_the_pictures_features() -> None:
    policy, _ = make_car("sac")
    module = policy.module
    random = np.random.default_rng(0)
    pictures = torch.as_tensor(random.integers(0, 256, (3, HEIGHT, WIDTH, 1), np.uint8))
    actions = torch.as_tensor(random.uniform(-1, 1, (3, 2)).astype(np.float32))
    found = module._qf_forward_train_helper(
        {Columns.OBS: pictures, Columns.ACTIONS: actions}, module.qf_encoder, module.qf
    )
    x = pictures.permute(0, 3, 1, 2) / 255
    for layer in list(module.qf_encoder.camera.net[0].cnn)[1:]:
        x = layer(x)
    x = module.qf_encoder.dense(x.permute(0, 2, 3, 1).flatten(1))
    expected = module.qf.net.mlp(torch.cat([x, actions], dim=1))[:, 0]
    torch.testing.assert_close(found, expected)
    assert module.qf_encoder.camera is not module.pi_encoder


def test_heat_is_where_the_steering_depends_on_the_picture() -> None:
    policy, metadata = make_car("sac")
    heat, logits = find_heat(policy.module, make_rows(metadata, 2)[1], is_discrete=False)
    assert heat.max(axis=(1, 2)) == pytest.approx(1)
    assert np.ptp(heat) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(Explorer(metadata, seed=None).likeliest(logits), np.tanh(logits[:, :2]))


def resolve_sac(metadata: dict[str, Any], **words: Any) -> JobConfig:
    values = {"env": "DeepRacer-v0", "run": "SAC", "config.env_config": {"model_metadata": metadata}, **words}
    named = {f"rl.training.{name}": one for name, one in values.items()}
    return resolve([Source("the command line", named)], extras={})


def test_a_job_gets_the_metadatas_network_and_a_buffer_for_pictures() -> None:
    metadata = {**DEFAULT, **CONTINUOUS, "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_DEEP"}
    del metadata["training_algorithm"]
    config = prepare_cars(resolve_sac(metadata, **{"config.train_batch_size": 32}), Container())
    values = config.values()
    assert values["config.model.head_fcnet_hiddens"] == [256, 128]
    assert values["config.model.conv_filters"][0] == [32, 8, 4, "valid"]
    assert (values["config.train_batch_size"], values["config.buffer_size"]) == (32, 50_000)
    assert config.sources["config.buffer_size"] == "default for DeepRacer-v0"
    assert config.algorithm.env_config["model_metadata"]["training_algorithm"] == "sac"
    of_a_preset = resolve_sac(metadata).replace({"config.gamma": 0.9}, source="preset best.yaml")
    assert prepare_cars(of_a_preset, Container()).values()["config.gamma"] == 0.9


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({}, {}, "action_space: got a list of discrete actions with rl.training.run=SAC; expected continuous"),
        (
            {**CONTINUOUS, "training_algorithm": "clipped_ppo", "sensor": ["FRONT_FACING_CAMERA", "LIDAR"]},
            {},
            "training_algorithm: got 'clipped_ppo' with rl.training.run=SAC; expected 'sac'(.|\n)*"
            "sensor: got FRONT_FACING_CAMERA, LIDAR with rl.training.run=SAC; expected a camera alone",
        ),
        (
            CONTINUOUS,
            {"config.env_config": {"track": "oval,reinvent_base"}},
            "track: got 2 tracks with rl.training.run=SAC; expected one",
        ),
        (CONTINUOUS, {"config.gym_env_vectorize_mode": "async"}, "gym_env_vectorize_mode: got 'async' .*expected none"),
        ({**CONTINUOUS, "training_algorithm": "sac"}, {"run": "PPO"}, "got 'sac' for a training by PPO; .*run=SAC"),
    ],
)
def test_what_sac_does_not_train_is_refused(change: dict[str, Any], words: dict[str, Any], message: str) -> None:
    metadata = {name: value for name, value in {**DEFAULT, **change}.items() if value is not None}
    if "training_algorithm" not in change:
        metadata.pop("training_algorithm", None)
    env_config = {"model_metadata": metadata, **words.get("config.env_config", {})}
    with pytest.raises(UserError, match=message):
        prepare_cars(resolve_sac(metadata, **{**words, "config.env_config": env_config}), Container())


def test_the_services_hyperparameters_are_sacs() -> None:
    asked = {"batch_size": "128", "lr": "0.0005", "discount_factor": "0.98", "sac_alpha": "0.1"}
    overrides = as_overrides(read_hyperparameters(asked), JobFile({}, {}, (), ()), algorithm="sac")
    assert "preset" not in overrides
    metadata = {**DEFAULT, **CONTINUOUS, "training_algorithm": "sac"}
    source = {**overrides, "rl.training.config.env_config.model_metadata": metadata}
    config = prepare_cars(resolve([Source("the job", source)], extras={}), Container())
    assert config.run == "SAC"
    found = describe_hyperparameters(config)
    wanted = {"batch_size": 128, "lr": 0.0005, "discount_factor": 0.98, "sac_alpha": 0.1}
    assert {name: found[name] for name in wanted} == wanted
    values = config.values()
    rates = [values[f"config.{name}"] for name in ("actor_lr", "critic_lr", "alpha_lr")]
    assert rates == [0.0005, 0.0005, 0.0]  # the original's temperature is constant
    assert parse_metadata(config.algorithm.env_config["model_metadata"]).algorithm == "sac"
