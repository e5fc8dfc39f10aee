"""Archives of cars drive in the simulator: our own come back as they were, and others' are mapped by structure."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.types_pb2 import DT_FLOAT

from envs.deepracer.metadata import DEFAULT, Metadata, parse_metadata
from envs.deepracer.racing import action_space, decode_actions
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.artifacts.checkpoint import read_state
from runtime.artifacts.policy_file import read_policy
from runtime.errors import UserError
from runtime.families.deepracer.car_archive import describe_for_car
from runtime.families.deepracer.car_import import import_car
from runtime.families.deepracer.car_model import write_car_model
from runtime.families.deepracer.driving import Explorer
from runtime.policies.policy import Policy
from tests.conftest import run_peer, run_smrl
from tests.families.deepracer.test_car_model import CARS, PICTURES, make_car, make_rows

METADATA = "model_metadata.json"


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def decide(policy: Policy, rows: NDArray[Any], metadata: Metadata) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The logits of a policy, and the steering angles and speeds that it chooses."""
    logits = np.concatenate([policy.logits(rows[at : at + 32]) for at in range(0, len(rows), 32)])
    return logits, decode_actions(metadata, Explorer(metadata, seed=None).likeliest(logits))


@pytest.fixture(scope="module")
def car() -> dict[str, bytes]:
    """The files of a car's archive."""
    policy, metadata = make_car("discrete")
    described = json.dumps(describe_for_car(metadata)).encode()
    return {"agent/model.pb": write_car_model(policy, metadata), METADATA: described}


@pytest.mark.parametrize("name", [name for name in CARS if name != "sac"])
def test_an_exported_car_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    policy, metadata = make_car(name)
    described = describe_for_car(metadata)
    described.pop("neural_network", None)  # cars do not read it; the graph tells
    files = {"agent/model.pb": write_car_model(policy, metadata), METADATA: json.dumps(described).encode()}
    checkpoint = import_car(pack(tmp_path / "car.tar.gz", files), tmp_path / "car")
    state = read_state(checkpoint)
    found = parse_metadata(state.policy["env_config"]["model_metadata"])
    assert found.network == metadata.network
    back = read_policy(checkpoint, action_space(found), settings=state.policy)
    _, rows = make_rows(metadata, PICTURES if name in ("discrete", "continuous") else 32)
    logits, mine = decide(policy, rows, metadata)
    assert logits[:, :2].std(axis=0).max() > 1e-3
    _, theirs = decide(back, rows, found)
    np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-6)


def test_a_car_that_sac_trained_is_refused(tmp_path: Path) -> None:
    policy, metadata = make_car("sac")
    described = json.dumps(describe_for_car(metadata)).encode()
    files = {"agent/model.pb": write_car_model(policy, metadata), METADATA: described}
    with pytest.raises(UserError, match="got a policy of SAC; expected one of clipped_ppo, the one that is read from"):
        import_car(pack(tmp_path / "car.tar.gz", files), tmp_path / "car")


def in_coachs_words(content: bytes) -> bytes:
    """Rewrites a graph as Coach and TensorFlow freeze it: more nodes, other encodings of constants, the same function.

    Kernels are read through Identity, the picture loses a zero, a batch's size is taken from its shape, the head's
    input passes a gradient rescaler, biases are added by AddV2 and are lists of numbers.
    """
    graph = GraphDef.FromString(content)
    found = {node.name: node for node in graph.node}
    scope = "main_level/agent/main/online/network_1"

    def constant(name: str, value: float) -> str:
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = DT_FLOAT
        node.attr["value"].tensor.dtype = DT_FLOAT
        node.attr["value"].tensor.float_val.append(value)
        return name

    for node in list(graph.node):
        if node.name.endswith("/kernel"):
            graph.node.add(name=f"{node.name}/read", op="Identity", input=[node.name])
        if node.name.endswith("/bias"):
            tensor = node.attr["value"].tensor
            values = np.frombuffer(tensor.tensor_content, np.float32).tolist()
            tensor.ClearField("tensor_content")
            tensor.float_val.extend(values)
        for at, name in enumerate(node.input):
            if name.endswith("/kernel"):
                node.input[at] = f"{name}/read"
    for node in graph.node:
        if node.op == "BiasAdd" and "Dense" in node.name:
            node.op = "AddV2"
    camera = f"{scope}/FRONT_FACING_CAMERA"
    graph.node.add(name=f"{camera}/sub", op="Sub", input=[f"{camera}/truediv", constant(f"{camera}/sub/y", 0.0)])
    found[f"{camera}/Conv2d_0/Conv2D"].input[0] = f"{camera}/sub:0"
    head = found[f"{scope}/ppo_head_0/policy_fc/MatMul"]
    before, share = head.input[0], f"{scope}/gradients_from_head_0-0_rescalers"
    graph.node.add(name=f"{scope}/stop", op="StopGradient", input=[before])
    for name, factor in (("mul", 0.25), ("mul_1", 0.75)):
        source = before if name == "mul_1" else f"{scope}/stop"
        graph.node.add(name=f"{scope}/{name}", op="Mul", input=[constant(f"{share}/{name}", factor), source])
    graph.node.add(name=f"{scope}/add", op="Add", input=[f"{scope}/mul", f"{scope}/mul_1"])
    head.input[0] = f"{scope}/add"
    return bytes(graph.SerializeToString())


def test_a_graph_in_coachs_words_is_the_same_policy(car: dict[str, bytes], tmp_path: Path) -> None:
    written = in_coachs_words(car["agent/model.pb"])
    metadata = {**DEFAULT, "sensor": ["observation"]}
    files = {"./model.pb": written, f"./agent/{METADATA}": json.dumps(metadata).encode()}
    checkpoint = import_car(pack(tmp_path / "car.tar.gz", files), tmp_path / "car")
    policy, described = make_car("discrete")
    back = read_policy(checkpoint, settings=read_state(checkpoint).policy)
    _, rows = make_rows(described, 16)
    np.testing.assert_allclose(back.logits(rows), policy.logits(rows), atol=1e-5)


def test_what_tensorflow_froze_of_coachs_layers_is_the_same_policy(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 1), np.uint8)
    np.savez(tmp_path / "in.npz", pictures=pictures, actions=5)
    run_peer("make_coach_model.py", tmp_path, timeout_s=300)
    files = {"agent/model.pb": (tmp_path / "model.pb").read_bytes(), METADATA: json.dumps(DEFAULT).encode()}
    checkpoint = import_car(pack(tmp_path / "car.tar.gz", files), tmp_path / "car")
    state = read_state(checkpoint)
    assert state.policy["env_config"]["model_metadata"]["neural_network"] == "DEEP_CONVOLUTIONAL_NETWORK"
    logits = read_policy(checkpoint, settings=state.policy).logits(pictures)
    expected = np.load(tmp_path / "out.npy")
    assert expected.std(axis=0).max() > 1e-3
    np.testing.assert_allclose(torch.softmax(torch.as_tensor(logits), 1).numpy(), expected, atol=1e-5)


def with_node(files: dict[str, bytes], suffix: str, **attributes: Any) -> dict[str, bytes]:
    """A car of whose graph one node is another."""
    graph = GraphDef.FromString(files["agent/model.pb"])
    (node,) = [node for node in graph.node if node.name.endswith(suffix)]
    for name, value in attributes.items():
        setattr(node, name, value)
    return files | {"agent/model.pb": bytes(graph.SerializeToString())}


def with_metadata(files: dict[str, bytes], **settings: Any) -> dict[str, bytes]:
    return files | {METADATA: json.dumps({**DEFAULT, **settings}).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files | {"agent/model_2.pb": b""}, "got agent/model.pb, agent/model_2.pb; expected exactly one"),
        (lambda files: {METADATA: files[METADATA]}, "got no .pb file; expected exactly one, as agent/model.pb"),
        (
            lambda files: {"agent/model.pb": b"", "b.pb": b""},
            "(?s)expected exactly one.*got no model_metadata.json; expec",
        ),
        (lambda files: files | {METADATA: b"{"}, "model_metadata.json: got no JSON"),
        (lambda files: files | {METADATA: b"{}"}, "model_metadata.json: action_space: got NoneType"),
        (lambda files: files | {"agent/model.pb": b"no graph"}, "agent/model.pb: got 8 bytes that are no GraphDef"),
        (lambda files: files | {"agent/model.pb": b""}, "got 0 nodes; expected a frozen graph"),
        (
            lambda files: files | {"agent/model.pb": files["agent/model.pb"][:-1000]},
            "bytes that are no GraphDef, or not all of one",
        ),
        (
            lambda files: with_node(files, "Conv2d_2/kernel", op="VariableV2"),
            "got a graph with VariableV2; expected a frozen one",
        ),
        (
            lambda files: with_node(files, "Conv2d_2/BiasAdd", op="Elu"),
            "got the operations Elu; expected those of DeepRacer's networks",
        ),
        (
            lambda files: with_node(files, "_3_activation", op="Tanh"),
            "whose outputs differ by .* expected pictures divided by 255, ReLU after each layer",
        ),
        (
            lambda files: with_node(files, "ppo_head_0/policy", name="other"),
            "got a graph that ends in other; expected one node named …/ppo_head_0/policy",
        ),
        (
            lambda files: with_metadata(files, action_space=DEFAULT["action_space"][:4]),
            "got a network of 8×8×1×32/4, .*, 512×5; expected, .* DEEP_CONVOLUTIONAL_NETWORK_SHALLOW: .*, 512×4",
        ),
        (
            lambda files: with_metadata(files, sensor=["STEREO_CAMERAS", "LIDAR"]),
            "got the inputs .*FRONT_FACING_CAMERA; expected one for each sensor",
        ),
        (
            lambda files: with_metadata(files, neural_network="X"),
            "neural_network: got 'X'; expected one of",
        ),
    ],
)
def test_what_is_no_car_that_we_can_drive_is_refused_by_name(
    change: Any, message: str, car: dict[str, bytes], tmp_path: Path
) -> None:
    archive = pack(tmp_path / "car.tar.gz", change(car))
    with pytest.raises(UserError, match=message) as error:
        import_car(archive, tmp_path / "car")
    assert all(line.startswith("--car: ") for line in str(error.value).splitlines()[:1])


def test_a_cycle_is_refused(car: dict[str, bytes], tmp_path: Path) -> None:
    graph = GraphDef.FromString(car["agent/model.pb"])
    first = next(node for node in graph.node if node.name.endswith("Conv2d_0/Conv2D"))
    first.input[0] = "main_level/agent/main/online/network_1/ppo_head_0/policy"
    archive = pack(tmp_path / "car.tar.gz", car | {"agent/model.pb": bytes(graph.SerializeToString())})
    with pytest.raises(UserError, match="depends on itself"):
        import_car(archive, tmp_path / "car")


def test_what_is_no_whole_archive_is_refused(car: dict[str, bytes], tmp_path: Path) -> None:
    whole = pack(tmp_path / "car.tar.gz", car).read_bytes()
    for name, content in {"cut": whole[:-5000], "plain": gzip.decompress(whole), "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be unpacked .*; expected a whole NAME.tar.gz"):
            import_car(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="which is no file; expected NAME"):
        import_car(tmp_path / "absent.tar.gz", tmp_path / "out")


@pytest.mark.slow
def test_a_car_drives_in_the_simulator(car: dict[str, bytes], tmp_path: Path) -> None:
    pack(tmp_path / "theirs.tar.gz", car)
    words = ("evaluate", "--car", "theirs.tar.gz", "track=oval", "number_of_trials=1")
    done = run_smrl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trial 1: " in done.stdout
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert (found["track"], found["dynamics"]["name"]) == ("oval", "gazebo")
    assert (tmp_path / "evaluation" / "driven_lines.png").is_file()
    done = run_smrl(*words, "checkpoint=best", cwd=tmp_path)
    assert done.returncode == 2
    assert "--car: got 'theirs.tar.gz' beside checkpoint=…; expected the archive alone" in done.stderr
