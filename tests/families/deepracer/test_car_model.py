"""The file that physical cars run, read by TensorFlow, TensorFlow Lite and OpenVINO."""

from __future__ import annotations

import gzip
import io
import json
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from tensorboard.compat.proto.graph_pb2 import GraphDef

from envs.deepracer.metadata import DEFAULT, Metadata, parse_metadata
from envs.deepracer.racing import action_space
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.errors import UserError
from runtime.families.deepracer.car_archive import describe_for_car
from runtime.families.deepracer.car_model import car_sensors, input_name, write_car_model
from runtime.families.deepracer.network import network_settings
from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.policy import Policy
from runtime.policies.ppo_module import PPOModule
from runtime.policies.sac_module import SACModule
from runtime.ppo.rllib_config import model_config
from tests.conftest import ROOT, SHORT_RACES, run_peer, run_smrl

OPS = json.loads((ROOT / "tests" / "tf_2_1_ops.json").read_text())
CONTINUOUS = {
    "action_space": {"steering_angle": {"low": -30, "high": 30}, "speed": {"low": 1, "high": 4}},
    "action_space_type": "continuous",
}
CARS: dict[str, Mapping[str, Any]] = {
    "discrete": {},
    "continuous": CONTINUOUS,
    "deep": {"neural_network": "DEEP_CONVOLUTIONAL_NETWORK"},
    "deeper": {"neural_network": "DEEP_CONVOLUTIONAL_NETWORK_DEEP"},
    "stereo": {"sensor": ["STEREO_CAMERAS"]},
    "lidar": {"sensor": ["FRONT_FACING_CAMERA", "LIDAR"]},
    "lidar before the camera": {"sensor": ["STEREO_CAMERAS", "SECTOR_LIDAR"]} | CONTINUOUS,
    "old name": {"sensor": ["observation"]},
    "sac": {"training_algorithm": "sac"} | CONTINUOUS,
}
PICTURES = 256


def make_car(name: str) -> tuple[Policy, Metadata]:
    """Makes a policy with random weights, as it is before training but for its last layer."""
    torch.manual_seed(0)
    metadata = parse_metadata({**DEFAULT, **CARS[name]})
    channels = 2 if metadata.camera == "STEREO_CAMERAS" else 1
    space: gymnasium.Space[Any] = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, channels), np.uint8)
    kind, catalog = (SACModule, SACCatalog) if metadata.algorithm == "sac" else (PPOModule, PPOCatalog)
    settings = model_config(network_settings(metadata))
    if metadata.lidar is not None:
        kind, catalog = CameraLidarModule, None
        space = gymnasium.spaces.Box(-np.inf, np.inf, (HEIGHT * WIDTH * channels + metadata.scan_size,), np.float32)
    module = kind(
        observation_space=space,
        action_space=action_space(metadata),
        inference_only=False,
        model_config=settings | {"twin_q": True, "free_log_std": settings["free_log_std"] and kind is not SACModule},
        catalog_class=catalog,
    )
    with torch.no_grad():  # probabilities that differ
        last = module.actor.last if kind is CameraLidarModule else module.pi.net.mlp[-1]
        last.weight.mul_(30)
    return Policy(module, action_space(metadata), observation_filter=None), metadata


def make_rows(metadata: Metadata, count: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[Any]]:
    """Makes observations as a car has them, by input, and as the policy has them."""
    random = np.random.default_rng(1)
    channels = 2 if metadata.camera == "STEREO_CAMERAS" else 1
    pictures = random.integers(0, 256, (count, HEIGHT, WIDTH, channels), np.uint8)
    names = [input_name(sensor, metadata.algorithm) for sensor in car_sensors(metadata)]
    feeds = {names[0]: pictures.astype(np.float32)}
    if metadata.lidar is None:
        return feeds, pictures
    feeds[names[1]] = random.uniform(0.15, 1, (count, metadata.scan_size)).astype(np.float32)
    both = {metadata.camera: feeds[names[0]].reshape(count, -1), metadata.lidar: feeds[names[1]]}
    return feeds, np.concatenate([both[name] for name in sorted(both)], axis=1)


def expect(policy: Policy, metadata: Metadata, rows: NDArray[Any]) -> NDArray[Any]:
    """Returns the policy's probabilities, or its means, by PyTorch."""
    logits = torch.as_tensor(np.concatenate([policy.logits(rows[at : at + 32]) for at in range(0, len(rows), 32)]))
    means = logits[:, :2].tanh() if metadata.algorithm == "sac" else logits[:, :2]
    return (means if metadata.actions is None else logits.softmax(dim=1)).numpy()


def test_cars_converters_compute_what_the_policy_does(tmp_path: Path) -> None:
    expected = {}
    for number, name in enumerate(CARS):
        policy, metadata = make_car(name)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.pb").write_bytes(write_car_model(policy, metadata))
        feeds, rows = make_rows(metadata, PICTURES if name == "discrete" else 16)
        np.savez(folder / "in.npz", **{name.replace("/", "|"): array for name, array in feeds.items()})  # type: ignore[arg-type]
        expected[folder] = (name, expect(policy, metadata, rows))
    said = run_peer("run_car_models.py", *expected)
    for folder, (name, outputs) in expected.items():
        assert outputs.std(axis=0).max() > 1e-3, name
        with np.load(folder / "out.npz") as found:
            assert set(found) == {"tensorflow", "lite", "openvino"}
            for how, theirs in found.items():
                np.testing.assert_allclose(theirs, outputs, atol=1e-5, err_msg=f"{name}, {how}\n{said}")


@pytest.mark.parametrize("name", ["discrete", "continuous", "lidar", "sac"])
def test_every_attribute_is_written_because_old_cars_know_no_defaults(name: str) -> None:
    nodes = GraphDef.FromString(write_car_model(*make_car(name))).node
    operations = {node.op for node in nodes}
    assert {"Conv2D", "BiasAdd", "MatMul", "Relu", "Reshape", "RealDiv"} < operations
    for node in nodes:
        assert set(node.attr) == set(OPS[node.op]["attributes"]), node.name


def test_deepracer_utils_draws_the_grad_cam_of_a_cars_model(tmp_path: Path) -> None:
    policy, metadata = make_car("discrete")
    assert metadata.actions is not None
    (tmp_path / "model.pb").write_bytes(write_car_model(policy, metadata))
    pictures = np.random.default_rng(0).random((3, 120, 160, 3), np.float32)
    np.save(tmp_path / "pictures.npy", pictures)
    packages = sysconfig.get_path("purelib")
    run_peer("run_grad_cam.py", packages, *(tmp_path / name for name in ("model.pb", "pictures.npy", "drawn.npy")))
    drawn = np.load(tmp_path / "drawn.npy")
    assert drawn.shape == (3, len(metadata.actions), 120, 160, 3)
    assert drawn.std(axis=(2, 3)).min() > 1  # none is of one color
    for of_a_picture in drawn:  # without a warm region where no part of the picture speaks for an action
        assert len({one.tobytes() for one in of_a_picture}) > 1


def test_a_sensor_that_cars_lack_is_refused() -> None:
    metadata = parse_metadata({**DEFAULT, "sensor": ["FRONT_FACING_CAMERA", "DISCRETIZED_SECTOR_LIDAR"]})
    with pytest.raises(UserError, match="DISCRETIZED_SECTOR_LIDAR, which cars do not know; expected LIDAR"):
        car_sensors(metadata)


def test_a_cars_metadata_names_what_deepracer_on_aws_insists_on() -> None:
    bare = {"action_space": [{"steering_angle": 0, "speed": 1}], "sensor": ["observation"], "note": "kept"}
    described = describe_for_car(parse_metadata(bare))
    assert described["sensor"] == ["FRONT_FACING_CAMERA"]
    assert described["training_algorithm"] == "clipped_ppo"
    assert described["action_space_type"] == "discrete"
    assert described["note"] == "kept"


@pytest.fixture(scope="module")
def car_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A car that has hardly trained, with its exports."""
    folder = tmp_path_factory.mktemp("car")
    words = ("rl.training.stop.training_iteration=1", *SHORT_RACES)
    done = run_smrl("train", "--preset", "deepracer", "--out", "out", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.slow
def test_a_training_and_an_export_write_the_archive_of_a_car(car_results: Path, tmp_path: Path) -> None:
    model = (car_results / "model" / "agent" / "model.pb").read_bytes()
    done = run_smrl("export", str(car_results), "--car", "cars/fast", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote cars/fast.tar.gz: agent/model.pb (")
    assert f"agent/model.pb ({len(model):,} bytes)" in (ROOT / "docs" / "deepracer.md").read_text()
    plain = gzip.decompress((tmp_path / "cars" / "fast.tar.gz").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:  # one layer of gzip, as a car reads it
        assert tar.getnames() == ["agent/model.pb", "model_metadata.json"]
        packed = tar.extractfile("agent/model.pb")
        described = tar.extractfile("model_metadata.json")
        assert packed is not None
        assert described is not None
        assert packed.read() == model
        assert parse_metadata(json.load(described)).sensors == ("FRONT_FACING_CAMERA",)


@pytest.mark.slow
def test_what_is_no_car_is_refused(car_results: Path, tiny_results: Path, tmp_path: Path) -> None:
    done = run_smrl("export", str(car_results), "--car", "my car.v2", "chekpoint=best", cwd=tmp_path)
    assert done.returncode == 2
    assert "--car: got 'my car.v2' from the command line; expected a name without dots and spaces" in done.stderr
    assert "Try my-car-v2." in done.stderr
    assert "Did you mean 'checkpoint'?" in done.stderr
    done = run_smrl("export", str(tiny_results), "--car", "walker", cwd=tmp_path)
    assert done.returncode == 2
    assert "--car: got a model of RoboschoolReacher-v1; expected one of DeepRacer-v0" in done.stderr
    assert not list(tmp_path.iterdir())
