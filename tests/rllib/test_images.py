"""Networks for images of any size, from what a job leaves open to a policy that acts by what it sees."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from runtime.jobs.catalog import resolve
from runtime.outputs.metrics import read_rows
from runtime.ppo.settings import PPOSettings
from runtime.rllib.images import choose_convolutions, fit_images
from runtime.settings.resolve import Source
from tests.conftest import ROOT, run_smrl


@pytest.mark.parametrize(
    "shape", [(3, 3, 3), (7, 7, 3), (12, 30, 1), (35, 35, 3), (36, 36, 1), (84, 84, 4), (210, 160, 3), (480, 640, 3)]
)
def test_convolutions_fit_images_of_any_size(shape: tuple[int, ...]) -> None:
    channels = shape[2]
    layers: list[nn.Module] = []
    for filters, kernel, stride, padding in choose_convolutions(shape):
        assert padding == "valid"
        layers.append(nn.Conv2d(channels, filters, kernel, stride))
        channels = filters
    features = nn.Sequential(*layers)(torch.zeros(1, shape[2], *shape[:2]))
    assert 0 < features.numel() <= 6400


@pytest.mark.slow
def test_a_policy_learns_from_images_and_is_exported(tmp_path: Path) -> None:
    done = run_smrl(
        *("train", "--out", str(tmp_path / "o"), "rl.training.env=tests.toy_envs:BrightSide", "seed=1"),
        "rl.training.config.env_config.is_channels_first=true",
        *("rl.training.stop.training_iteration=6", "rl.training.config.train_batch_size=512"),
        *("rl.training.config.minibatch_size=64", "rl.training.video_freq=0"),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "images of 20×20×1: convolutions 32 of 4/2, 64 of 3/1" in done.stdout + done.stderr
    rows = read_rows(tmp_path / "o" / "metrics.jsonl")
    assert rows[0]["episode_reward_mean"] < 14  # of 20; a policy that does not look gets 10
    assert rows[-1]["episode_reward_mean"] > 15
    assert (tmp_path / "o" / "model" / "policy.onnx").exists()  # written after its actions were compared


def test_given_convolutions_are_kept_and_the_rest_fits_images() -> None:
    given = {"rl.training.env": "Acrobot-v1", "rl.training.config.model.conv_filters": "[[16, [4, 4], 2]]"}
    space = gymnasium.spaces.Box(0, 255, (20, 20, 1), np.uint8)
    fitted, notes = fit_images(resolve([Source("the command line", given)], extras={}), space)
    settings = PPOSettings.of(fitted)
    assert notes == []
    assert settings.model.conv_filters == [[16, [4, 4], 2]]
    assert settings.observation_filter == "NoFilter"  # the statistics of each pixel would take a fifth of the time
    assert settings.model.vf_share_layers
    kept = {**given, "rl.training.config.model.vf_share_layers": "false"}
    fitted, _ = fit_images(resolve([Source("the command line", kept)], extras={}), space)
    assert not PPOSettings.of(fitted).model.vf_share_layers
