"""A trained policy as the file that DeepRacer's cars run: `model.pb`, a frozen graph of TensorFlow with Coach's names.

Cars convert it with OpenVINO's or TensorFlow Lite's converter. The oldest, OpenVINO 2021's, reads the file without the
operations' default attributes, so that every attribute is written; cars read one input a sensor and the only output,
by name, with a batch of 1.

Source: aws-deepracer-model-optimizer-pkg d2b4a65 and aws-deepracer-inference-pkg 36ca404; Coach's names are those of
DeepRacer's simulation application.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from torch import nn

from envs.deepracer.metadata import Metadata
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.errors import UserError
from runtime.export.layers import refuse, to_numpy
from runtime.export.saved_model import PRODUCER, add_constant
from runtime.families.deepracer.policy_layers import camera_layers
from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.policy import Policy

# Coach's names, by the metadata's training_algorithm: inputs' scope, policy's scope, and its head.
_SCOPES = {
    "clipped_ppo": ("main_level/agent/main/online/network_0", "main_level/agent/main/online/network_1", "ppo_head_0"),
    "sac": (*("main_level/agent/policy/online/network_0",) * 2, "sac_policy_head_0"),
}
# An older name of the camera, which DeepRacer on AWS does not import.
_RENAMED = {"observation": "FRONT_FACING_CAMERA"}
_FLOAT = 1  # DT_FLOAT
_INT32 = 3  # DT_INT32


def input_name(sensor: str, algorithm: str = "clipped_ppo") -> str:
    """Returns the name of a sensor's input, in a policy that an algorithm of the metadata trained."""
    return f"{_SCOPES[algorithm][0]}/{sensor}/{sensor}"


def output_name(algorithm: str) -> str:
    """Returns the name of the output of a policy that an algorithm of the metadata trained."""
    _, scope, head = _SCOPES[algorithm]
    return f"{scope}/{head}/policy"


def car_sensors(metadata: Metadata) -> tuple[str, ...]:
    """Returns the names that a car has for a policy's sensors, the camera first.

    Raises:
        UserError: Cars do not have such a sensor.
    """
    if metadata.lidar == "DISCRETIZED_SECTOR_LIDAR":
        raise UserError(
            "export: got a policy with the sensor DISCRETIZED_SECTOR_LIDAR, which cars do not know; expected LIDAR, "
            "SECTOR_LIDAR or a camera alone. Train with one of these for a car."
        )
    return tuple(_RENAMED.get(sensor, sensor) for sensor in metadata.sensors)


def write_car_model(policy: Policy, metadata: Metadata) -> bytes:
    """Returns the bytes of `model.pb`.

    Its inputs are the sensors' values as the car has them, float32: a picture (1, 120, 160, C) of grays from 0 to 255,
    and a scan (1, N) in meters. Its output is the probability of each discrete action (1, A), or the mean of the
    normalized steering and speed (1, 2). Of a policy of SAC that is tanh(mean), as a car clips what it reads to ±1.

    Args:
        policy: The policy.
        metadata: Metadata of its car.

    Raises:
        UserError: The policy has a layer or a sensor that cars do not know.
    """
    inputs = [(sensor, input_name(sensor, metadata.algorithm)) for sensor in car_sensors(metadata)]
    _, scope, head = _SCOPES[metadata.algorithm]
    module = policy.module
    graph = _CarGraph()
    channels = 2 if metadata.camera == "STEREO_CAMERAS" else 1
    sensor, camera = inputs[0]
    graph.placeholder(camera, (1, HEIGHT, WIDTH, channels))
    picture = _add_camera(graph, camera_layers(module), camera, f"{scope}/{sensor}")
    if isinstance(module, CameraLidarModule):
        lidar, scan = inputs[1]
        graph.placeholder(scan, (1, metadata.scan_size))
        actor: Any = module.actor
        scan = _add_dense(graph, actor.scan, scan, f"{scope}/{lidar}")
        joined = graph.add(f"{scope}/merger", "ConcatV2", [picture, scan], axis=1)
        layers = list(actor.joined)
        first, rest, last = layers[0], layers[1:], actor.last
        kernel = _in_channels_last(to_numpy(first.weight), actor.picture)
    else:
        joined = picture
        first, *rest, last = list(module.pi.net.mlp)
        kernel = to_numpy(first.weight)
    embedder = f"{scope}/middleware_fc_embedder"
    x = graph.dense(f"{embedder}/Dense_0", joined, kernel.T, to_numpy(first.bias))
    x = _add_dense(graph, rest, x, embedder, begin=1)
    name = f"{scope}/{head}/{'policy_fc' if metadata.actions is not None else 'policy_mean'}"
    weight, bias = to_numpy(last.weight), to_numpy(last.bias)
    if metadata.algorithm == "sac":  # whose last outputs are the log standard deviations
        weight, bias = np.split(weight, 2)[0], np.split(bias, 2)[0]
    x = graph.dense(name, x, weight.T, bias)
    if metadata.algorithm == "sac":
        x = graph.add(f"{name}/Tanh", "Tanh", [x])
    graph.add(output_name(metadata.algorithm), "Softmax" if metadata.actions is not None else "Identity", [x])
    return graph.serialize()


def _add_camera(graph: _CarGraph, layers: Any, picture: str, scope: str) -> str:
    """Adds the layers of the picture's embedder, whose last one flattens; returns the name of their output."""
    graph.constant(f"{scope}/truediv/y", np.float32(255))
    x = graph.add(f"{scope}/truediv", "RealDiv", [picture, f"{scope}/truediv/y"])
    for number, layer in _numbered(layers):
        if isinstance(layer, nn.Conv2d):
            kernel = to_numpy(layer.weight).transpose(2, 3, 1, 0)
            x = graph.convolve(f"{scope}/Conv2d_{number}", x, kernel, to_numpy(layer.bias), layer.stride[0])
        elif isinstance(layer, nn.ReLU):
            x = graph.add(f"{scope}/BatchnormActivationDropout_{number}_activation", "Relu", [x])
        else:
            raise refuse("the picture's network", layer, "convolutions with ReLU")
    size = _flat_size(layers)
    graph.constant(f"{scope}/Flatten/shape", np.array([-1, size], np.int32))
    return graph.add(f"{scope}/Flatten", "Reshape", [x, f"{scope}/Flatten/shape"])


def _add_dense(graph: _CarGraph, layers: Any, x: str, scope: str, *, begin: int = 0) -> str:
    """Adds dense layers with ReLU; Coach numbers the layers and their activations together."""
    for number, layer in enumerate(layers, begin):
        if isinstance(layer, nn.Linear):
            x = graph.dense(f"{scope}/Dense_{number}", x, to_numpy(layer.weight).T, to_numpy(layer.bias))
        elif isinstance(layer, nn.ReLU):
            x = graph.add(f"{scope}/BatchnormActivationDropout_{number}_activation", "Relu", [x])
        else:
            raise refuse(scope, layer, "dense layers with ReLU")
    return x


def _numbered(layers: Any) -> Iterator[tuple[int, nn.Module]]:
    """Numbers an embedder's convolutions and activations; its scaling and flattening have other names."""
    kept = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ReLU)]
    yield from enumerate(kept)


def _flat_size(layers: Any) -> int:
    rows, columns, channels = HEIGHT, WIDTH, 0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            rows = (rows - layer.kernel_size[0]) // layer.stride[0] + 1
            columns = (columns - layer.kernel_size[1]) // layer.stride[1] + 1
            channels = layer.out_channels
    return rows * columns * channels


def _in_channels_last(weight: NDArray[Any], picture: Any) -> NDArray[Any]:
    """Reorders the inputs of a dense layer, of which the first are a picture that PyTorch flattened channels first."""
    channels = [layer.out_channels for layer in picture if isinstance(layer, nn.Conv2d)][-1]
    size = _flat_size(picture)
    pixels = weight[:, :size].reshape(len(weight), channels, -1).transpose(0, 2, 1).reshape(len(weight), -1)
    return np.concatenate([pixels, weight[:, size:]], axis=1)


def channels_first_inputs(weight: NDArray[Any], picture: Any) -> NDArray[Any]:
    """Reorders the inputs (out, in) of a car's dense layer for a picture that PyTorch flattens channels first."""
    channels = [layer.out_channels for layer in picture if isinstance(layer, nn.Conv2d)][-1]
    size = _flat_size(picture)
    pixels = weight[:, :size].reshape(len(weight), -1, channels).transpose(0, 2, 1).reshape(len(weight), -1)
    return np.concatenate([pixels, weight[:, size:]], axis=1)


class _CarGraph:
    """A frozen graph under construction, with every attribute written; each method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes = GraphDef()
        self._nodes.versions.producer = PRODUCER

    def serialize(self) -> bytes:
        """Returns the bytes of the file."""
        return bytes(self._nodes.SerializeToString())

    def placeholder(self, name: str, shape: tuple[int, ...]) -> None:
        """Adds an input."""
        node = self._nodes.node.add(name=name, op="Placeholder")
        node.attr["dtype"].type = _FLOAT
        node.attr["shape"].shape.CopyFrom(TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape]))

    def constant(self, name: str, value: Any) -> str:
        """Adds a constant."""
        return add_constant(self._nodes, name, np.ascontiguousarray(value).reshape(np.shape(value)))

    def add(self, name: str, op: str, inputs: list[str], *, axis: int | None = None) -> str:
        """Adds an operation on float32 tensors."""
        if axis is not None:
            inputs = [*inputs, self.constant(f"{name}/axis", np.int32(axis))]
        node = self._nodes.node.add(name=name, op=op, input=inputs)
        node.attr["T"].type = _FLOAT
        if op == "Reshape":
            node.attr["Tshape"].type = _INT32
        elif op == "ConcatV2":
            node.attr["N"].i = len(inputs) - 1
            node.attr["Tidx"].type = _INT32
        elif op == "MatMul":
            node.attr["transpose_a"].b = False
            node.attr["transpose_b"].b = False
        elif op == "BiasAdd":
            node.attr["data_format"].s = b"NHWC"
        return name

    def dense(self, name: str, x: str, kernel: NDArray[Any], bias: NDArray[Any]) -> str:
        """Adds a dense layer, with a kernel (in, out)."""
        self.constant(f"{name}/kernel", kernel)
        self.constant(f"{name}/bias", bias)
        product = self.add(f"{name}/MatMul", "MatMul", [x, f"{name}/kernel"])
        return self.add(f"{name}/BiasAdd", "BiasAdd", [product, f"{name}/bias"])

    def convolve(self, name: str, x: str, kernel: NDArray[Any], bias: NDArray[Any], stride: int) -> str:
        """Adds a convolution without padding, with a kernel (H, W, C, D)."""
        self.constant(f"{name}/kernel", kernel)
        self.constant(f"{name}/bias", bias)
        node = self._nodes.node.add(name=f"{name}/Conv2D", op="Conv2D", input=[x, f"{name}/kernel"])
        node.attr["T"].type = _FLOAT
        node.attr["strides"].list.i.extend([1, stride, stride, 1])
        node.attr["dilations"].list.i.extend([1, 1, 1, 1])
        node.attr["padding"].s = b"VALID"
        node.attr["explicit_paddings"].list.SetInParent()
        node.attr["data_format"].s = b"NHWC"
        node.attr["use_cudnn_on_gpu"].b = True
        return self.add(f"{name}/BiasAdd", "BiasAdd", [f"{name}/Conv2D", f"{name}/bias"])
