"""DeepRacer's learner against RLlib's own loss, its networks against their published shapes, and the small commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from envs.deepracer.metadata import DEFAULT, parse_metadata
from envs.deepracer.racing import Racing, read_options
from runtime.families.deepracer.driven_episodes import TRACE
from runtime.families.deepracer.learner import fit_minibatch
from runtime.families.deepracer.network import network_settings
from tests.conftest import run_smrl


@pytest.fixture(scope="module")
def algorithm() -> Iterator[Any]:
    """A DeepRacer PPO of two episodes an iteration."""
    from runtime.cluster.machines import Machines
    from runtime.cluster.session import prepare_environment, ray_session
    from runtime.environments.spec import EnvSpec
    from runtime.families.deepracer.family import DeepRacerFamily
    from runtime.jobs.catalog import resolve
    from runtime.ppo.rllib_config import build_algorithm
    from runtime.settings.resolve import Source

    prepare_environment()
    asked = {"preset": "deepracer", "rl.training.config.episodes_per_iteration": 2, "rl.training.config.seed": 0}
    config = resolve([Source("the test", asked)], extras={})
    with ray_session(num_cpus=1, num_gpus=0, overrides=None):
        built = build_algorithm(
            config, EnvSpec("DeepRacer-v0", config.algorithm.env_config), DeepRacerFamily(), Machines(1)
        )
        yield built
        built.stop()


@pytest.mark.ray
@pytest.mark.slow
def test_the_loss_is_rllibs_on_the_same_minibatch(algorithm: Any) -> None:
    from ray.rllib.core.columns import Columns

    from runtime.families.deepracer.driving import autocast

    learner = algorithm.learner_group._learner
    runner = algorithm.env_runner
    batch = learner._prepare(runner.sample())
    assert batch["observations"].dtype == torch.uint8
    assert batch["advantages"].mean().item() == pytest.approx(0, abs=1e-5)
    assert batch["advantages"].std(correction=0).item() == pytest.approx(1, abs=1e-3)
    part = {name: column[:32] for name, column in batch.items()}
    with torch.no_grad():  # so that ratio and clip differ from 1
        for parameter in learner._net.pi.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    columns = {
        Columns.OBS: part["observations"],
        Columns.ACTIONS: part["actions"],
        Columns.ACTION_LOGP: part["log_probs"],
        Columns.ACTION_DIST_INPUTS: part["logits"],
        "advantages": part["advantages"],
        "value_targets": part["value_targets"],
    }
    with torch.no_grad(), autocast():  # in the same arithmetic
        forward = learner._net.forward_train(columns)
        theirs = learner.compute_loss_for_module(
            module_id="default_policy", config=learner.config, batch=columns, fwd_out=forward
        )
    total, policy_loss, value_loss, entropy, divergence, norm = learner._step(part).tolist()
    assert total == pytest.approx(float(theirs), rel=1e-4)
    assert policy_loss + value_loss - 0.01 * entropy == pytest.approx(total, rel=1e-5)
    assert divergence > 0
    assert norm > 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_rollout_is_whole_episodes_and_the_update_moves_both_networks(algorithm: Any) -> None:
    (rollout,) = algorithm.env_runner.sample()
    assert len(rollout.lengths) == 2
    assert rollout.lengths.sum() == rollout.env_steps() == len(rollout.observations)
    ends = np.cumsum(rollout.lengths) - 1
    assert np.flatnonzero(rollout.trace[:, TRACE.index("has_ended")]).tolist() == ends.tolist()
    assert rollout.rewards[[0, ends[0] + 1]].tolist() == [0.0, 0.0]  # an episode's first step pays nothing
    module = algorithm.learner_group._learner._net
    before = {name: value.clone() for name, value in module.state_dict().items()}
    algorithm.train()
    moved = {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"encoder", "pi", "vf"}


@pytest.mark.parametrize(
    ("size", "steps", "expected"), [(64, 65, 64), (64, 64, 64), (64, 50, 32), (64, 3, 2), (8, 1, 1)]
)
def test_a_minibatch_fits_a_short_rollout(size: int, steps: int, expected: int) -> None:
    assert fit_minibatch(size, steps) == expected


@pytest.mark.parametrize(
    ("network", "sensor", "embedder", "flat", "middleware"),
    [
        ("DEEP_CONVOLUTIONAL_NETWORK_SHALLOW", "FRONT_FACING_CAMERA", [], 11 * 16 * 64, [512]),
        ("DEEP_CONVOLUTIONAL_NETWORK_SHALLOW", "STEREO_CAMERAS", [], 11 * 16 * 64, [512]),
        ("DEEP_CONVOLUTIONAL_NETWORK", "FRONT_FACING_CAMERA", [64], 25 * 35 * 64, [512]),
        ("DEEP_CONVOLUTIONAL_NETWORK", "STEREO_CAMERAS", [], 25 * 35 * 128, [512]),
        ("DEEP_CONVOLUTIONAL_NETWORK_DEEP", "FRONT_FACING_CAMERA", [512, 512], 3 * 6 * 512, [256, 128]),
        ("DEEP_CONVOLUTIONAL_NETWORK_DEEP", "STEREO_CAMERAS", [], 25 * 35 * 128, [256, 128]),
    ],
)
def test_the_networks_have_the_published_shapes(
    network: str, sensor: str, embedder: list[int], flat: int, middleware: list[int]
) -> None:
    """Coach's embedder applies its dense layers to each pixel, and flattens what they make."""
    settings = network_settings(parse_metadata({**DEFAULT, "neural_network": network, "sensor": [sensor]}))
    rows, columns = 120, 160
    for _, kernel, stride, padding in settings["conv_filters"]:
        assert padding == "valid"
        rows, columns = (rows - kernel) // stride + 1, (columns - kernel) // stride + 1
    assert rows * columns * settings["conv_filters"][-1][0] == flat
    assert [filters for filters, kernel, *_ in settings["conv_filters"] if kernel == 1] == embedder
    assert settings["head_fcnet_hiddens"] == middleware


@pytest.mark.parametrize(("camera", "lidar"), [("FRONT_FACING_CAMERA", "LIDAR"), ("STEREO_CAMERAS", "LIDAR")])
def test_rows_of_picture_and_scan_are_taken_apart_as_they_were_joined(camera: str, lidar: str) -> None:
    from runtime.families.deepracer.driving import as_rows
    from runtime.policies.camera_lidar import _Network

    metadata = {**DEFAULT, "sensor": [camera, lidar]}
    racing = Racing(read_options(model_metadata=metadata, number_of_obstacles=6), worlds=2, seed=0)
    for world in range(2):
        racing.restart(world)
    found = racing.observe()
    rows = as_rows(found)
    space = racing.observation_space
    one = {name: array[0] for name, array in found.items()}
    np.testing.assert_array_equal(rows[0], gymnasium.spaces.flatten(space, one))
    network = _Network(network_settings(parse_metadata(metadata)), 5)
    scans = torch.as_tensor(found[lidar])
    pictures = torch.as_tensor(found[camera]).permute(0, 3, 1, 2)
    joined = torch.cat([network.picture(pictures), network.scan(scans)], dim=-1)
    torch.testing.assert_close(network(torch.as_tensor(rows)), network.last(network.joined(joined)))


def read_picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_reward_function_is_driven_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward_function(params):\n    return 3 if params['is_left_of_center'] else 1\n"
    )
    done = run_smrl("reward-check", "mine.py", "track=oval", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sums = {line[2:14].strip(): line for line in done.stdout.splitlines() if " a lap; " in line}
    assert "most 3" in sums["inner lane"]  # left, on a counter-clockwise track
    assert "least 1, mean 1, most 1" in sums["outer lane"]
    assert "the inner lane pays most" in done.stdout
    assert read_picture(tmp_path / "mine.reward.png").std() > 10


def test_a_reward_function_is_driven_at_a_speed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward_function(params):\n    return params['speed']\n")
    done = run_smrl("reward-check", "mine.py", "track=oval", "speed=1.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("least 1.5, mean 1.5, most 1.5") == 3
    done = run_smrl("reward-check", "mine.py", "speed=9", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "speed: got 9; expected 0.1 to 4 m/s." in done.stderr


def test_a_failing_reward_function_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward_function(params):\n\n    return params['sped']\n")
    done = run_smrl("reward-check", "mine.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.py:3: reward_function failed: KeyError: 'sped'" in done.stderr
    assert "Traceback" not in done.stderr


def test_tracks_are_listed_and_drawn(tmp_path: Path) -> None:
    done = run_smrl("tracks", "--out", "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "oval                          17.42 m  0.80 m        115  counter-clockwise" in done.stdout
    drawn = {path.stem: read_picture(path) for path in (tmp_path / "pictures").glob("*.png")}
    assert sorted(drawn) == ["oval", "reInvent2019_track", "reinvent_base", "straight"]
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 3 for picture in drawn.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["rl.training.config.env_config.track=monza"],
            "env_config: track: got 'monza'; expected one of reinvent_base",
        ),
        (
            ["rl.training.config.env_config.model_metadata=none.json"],
            "none.json: could not be read",
        ),
        (["rl.training.config.env_config.nonsense=1"], "nonsense: got a setting that no race has"),
    ],
)
def test_a_wrong_environment_is_answered_before_anything_starts(words: list[str], message: str, tmp_path: Path) -> None:
    done = run_smrl("train", "--preset", "deepracer", "--out", "results", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results" / "checkpoints").exists()
