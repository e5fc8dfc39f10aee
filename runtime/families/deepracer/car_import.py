"""Imports a car's archive: a community model's `model.pb` becomes a checkpoint of ours, to be evaluated like any other.

The graph's layers are mapped to a network of ours by their order and shapes. The graph itself is then run on pictures
and compared with that network, so that one that computes something else is refused.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from torch import nn

from envs import DEEPRACER_ID
from envs.deepracer.metadata import LIDARS, NETWORKS, Metadata, MetadataError, parse_metadata
from envs.deepracer.racing import action_space
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.artifacts.checkpoint import JobState, save_checkpoint
from runtime.artifacts.policy_file import StoredPolicy
from runtime.errors import UserError
from runtime.export.graph_def import OPERATIONS, FrozenGraph
from runtime.export.graph_reader import GraphError, GraphReader, Layer
from runtime.export.parity import TOLERANCE
from runtime.families.deepracer.car_archive import METADATA, compare_with_graph
from runtime.families.deepracer.car_model import channels_first_inputs
from runtime.families.deepracer.network import network_settings
from runtime.families.deepracer.policy_layers import camera_layers
from runtime.outputs.console import quiet_ray
from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.policy import Policy
from runtime.policies.ppo_module import PPOModule
from runtime.policies.spaces import describe_space
from runtime.ppo.rllib_config import model_config

_OUTPUT = "/ppo_head_0/policy"
_SAC_OUTPUT = "/sac_policy_head_0/policy"
_MOST_BYTES = 1 << 30
_WITHOUT_INPUTS = frozenset({"Placeholder", "Const"})
# A graph to compare with, its inputs by whether they are a LIDAR's, and its output.
_Check = tuple[FrozenGraph, Mapping[bool, str], str]


def import_car(archive: Path, folder: Path) -> Path:
    """Writes a checkpoint with the policy of a car's archive.

    Args:
        archive: NAME.tar.gz with one .pb file and a model_metadata.json.
        folder: An empty folder.

    Returns:
        The checkpoint, in the folder.

    Raises:
        UserError: The archive is invalid, or its network has another structure; all problems found are listed.
    """
    quiet_ray()
    content, name, metadata = _read_archive(archive)
    try:
        policy, metadata = read_car_policy(content, metadata)
    except (ValueError, UserError) as error:
        raise UserError(
            f"--car: {archive}: {name}: {str(error).rstrip('.')}. Archives of cars that clipped_ppo trained are driven."
        ) from None
    module = policy.module
    stored = StoredPolicy(
        type(module).__name__,
        module.model_config,
        module.observation_space,
        policy.action_space,
        {key: value.detach().cpu().numpy() for key, value in module.state_dict().items()},
        None,
    )
    described = {**metadata.source, "neural_network": metadata.network}
    state = JobState(
        env=DEEPRACER_ID,
        observation_shape=list(module.observation_space.shape),
        action_space=str(describe_space(policy.action_space)),
        policy={"env_config": {"model_metadata": described}, "normalize_actions": True, "clip_actions": False},
    )
    return save_checkpoint(folder, state, write_algorithm=stored.write)


def _read_archive(archive: Path) -> tuple[bytes, str, Metadata]:
    """Reads the graph with its name, and the metadata."""
    if not archive.is_file():
        raise UserError(f"--car: got {str(archive)!r}, which is no file; expected NAME.tar.gz, as cars import it.")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            files = {member.name.removeprefix("./"): member for member in tar if member.isfile()}
            graphs = sorted(name for name in files if name.endswith(".pb"))
            described = next((name for name in (METADATA, f"agent/{METADATA}") if name in files), None)
            wrong = _find_problems(graphs, described, files)
            if wrong:
                raise UserError("\n".join(f"--car: {archive}: {line}" for line in wrong))
            content, text = (_extract(tar, files[name]) for name in (graphs[0], str(described)))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"--car: got {str(archive)!r}, which cannot be unpacked ({error}); expected a whole NAME.tar.gz, as "
            "`smrl export --car` and DeepRacer's console write it. Download it again."
        ) from None
    try:
        return content, graphs[0], parse_metadata(json.loads(text.decode("utf-8-sig")), where=METADATA)
    except (ValueError, RecursionError) as error:
        kind = "" if isinstance(error, MetadataError) else f"{described}: got no JSON: "
        raise UserError(f"--car: {archive}: {kind}{error}") from None


def _find_problems(graphs: list[str], described: str | None, files: Mapping[str, tarfile.TarInfo]) -> list[str]:
    wrong = []
    if len(graphs) != 1:
        found = ", ".join(graphs) or "no .pb file"
        wrong.append(f"got {found}; expected exactly one, as agent/model.pb. Keep the one to drive with.")
    if described is None:
        wrong.append(
            f"got no {METADATA}; expected it at the root of the archive, beside the folder agent. Add the file that "
            "the model was trained with."
        )
    large = [name for name, member in files.items() if name in graphs and member.size > _MOST_BYTES]
    wrong += [f"{name}: got more than {_MOST_BYTES:,} bytes; expected the model of a car." for name in large]
    return wrong


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def read_car_policy(content: bytes, metadata: Metadata) -> tuple[Policy, Metadata]:
    """Returns the policy of a frozen graph, and its metadata with the name of the network that it has.

    Args:
        content: Bytes of the graph.
        metadata: Metadata of its car.

    Raises:
        GraphError: The file is no frozen graph, or has another structure.
        UserError: The metadata asks for what is not supported.
    """
    reader = GraphReader(content)
    output = _find_output(reader)
    if metadata.algorithm != "clipped_ppo":
        raise GraphError(f"got a policy of clipped_ppo; expected {metadata.algorithm}, as {METADATA} says")
    nodes = [reader.nodes[name] for name in reader.order(output)]
    unknown = sorted({node.op for node in nodes} - OPERATIONS.keys() - _WITHOUT_INPUTS)
    if unknown:
        raise GraphError(f"got the operations {', '.join(unknown)}; expected those of DeepRacer's networks")
    layers = reader.layers(output)
    inputs = frozenset[str]().union(*(layer.inputs for layer in layers))
    sensors = {name.rpartition("/")[2] in LIDARS: name for name in sorted(inputs)}
    if len(inputs) != len(metadata.sensors) or set(sensors) != {False, metadata.lidar is not None}:
        raise GraphError(
            f"got the inputs {', '.join(sorted(inputs)) or 'none'}; expected one for each sensor of {METADATA}, "
            f"{', '.join(metadata.sensors)}"
        )
    expected = []
    for name in (metadata.network, *(name for name in NETWORKS if name != metadata.network)):
        candidate = parse_metadata({**metadata.source, "neural_network": name})
        module = _build(candidate)
        slots = _slots(module)
        if _fits(found := _in_groups(layers, sensors), slots):
            policy = Policy(module, action_space(candidate), observation_filter=None)
            _fill(policy, candidate, found, slots, check=(FrozenGraph(nodes), sensors, output))
            return policy, candidate
        expected.append(f"{name}: {', '.join(_describe(*_shape(slot)) for slot in slots)}")
    described = ", ".join(_describe(layer.kernel.shape, layer.stride) for layer in layers)
    raise GraphError(
        f"got a network of {described or 'no layers'}; expected, for its sensors and actions, one of these. "
        f"{'; '.join(expected)}"
    )


def _find_output(reader: GraphReader) -> str:
    sinks = reader.sinks()
    outputs = [name for name in reader.nodes if name.endswith(_OUTPUT)]
    if len(outputs) == 1:
        return outputs[0]
    if any(name.endswith(_SAC_OUTPUT) for name in reader.nodes):
        raise GraphError("got a policy of SAC; expected one of clipped_ppo, the one that is read from a car's file")
    raise GraphError(f"got a graph that ends in {', '.join(sinks[:5])}; expected one node named …{_OUTPUT}")


def _build(metadata: Metadata) -> Any:
    """Builds a network of ours as the metadata asks for."""
    settings = network_settings(metadata)
    channels = 2 if metadata.camera == "STEREO_CAMERAS" else 1
    space: gymnasium.Space[Any] = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, channels), np.uint8)
    kind: Any = PPOModule
    if metadata.lidar is not None:
        kind = CameraLidarModule
        space = gymnasium.spaces.Box(-np.inf, np.inf, (HEIGHT * WIDTH * channels + metadata.scan_size,), np.float32)
    return kind(
        observation_space=space,
        action_space=action_space(metadata),
        inference_only=False,
        model_config=model_config(settings),
        catalog_class=None if kind is CameraLidarModule else PPOCatalog,
    )


def _slots(module: Any) -> list[Any]:
    """Returns a network's convolutions and linear layers in the order of a car's graph: picture, scan, the rest."""
    if isinstance(module, CameraLidarModule):
        actor: Any = module.actor
        parts = [*actor.picture, *actor.scan, *actor.joined, actor.last]
    else:
        parts = [*camera_layers(module), *module.pi.net.mlp]
    return [part for part in parts if isinstance(part, nn.Conv2d | nn.Linear)]


def _in_groups(layers: list[Layer], sensors: Mapping[bool, str]) -> list[Layer]:
    """Sorts layers as `_slots` does: by what they see, in the graph's order otherwise."""
    groups = [{sensors[False]}, {sensors.get(True)}]
    return sorted(layers, key=lambda layer: groups.index(set(layer.inputs)) if set(layer.inputs) in groups else 2)


def _fits(layers: list[Layer], slots: list[Any]) -> bool:
    return len(layers) == len(slots) and all(
        layer.stride == stride and layer.kernel.shape in (shape, shape[2:] if shape[:2] == (1, 1) else shape)
        for layer, (shape, stride) in zip(layers, map(_shape, slots), strict=True)
    )


def _shape(slot: Any) -> tuple[tuple[int, ...], int]:
    """Returns the shape of a layer's kernel in TensorFlow's order, and its stride."""
    if isinstance(slot, nn.Conv2d):
        return (*slot.kernel_size, slot.in_channels, slot.out_channels), int(slot.stride[0])
    return (slot.in_features, slot.out_features), 1


def _describe(shape: tuple[int, ...], stride: int) -> str:
    return "×".join(map(str, shape)) + (f"/{stride}" if len(shape) == 4 else "")


def _fill(policy: Policy, metadata: Metadata, layers: list[Layer], slots: list[Any], *, check: _Check) -> None:
    """Fills a network with a graph's weights; compares them.

    Raises:
        GraphError: The graph computes something else.
    """
    graph, sensors, output = check
    joined = next((at for at, layer in enumerate(layers) if len(layer.inputs) > 1), None)
    differences = []
    for is_scan_first in (False, True) if joined is not None else (False,):
        with torch.no_grad():
            for at, (layer, slot) in enumerate(zip(layers, slots, strict=True)):
                kernel = layer.kernel.reshape(_shape(slot)[0])
                if at == joined:  # Coach concatenates by name
                    scan = slots[at - 1].out_features
                    kernel = np.roll(kernel, -scan, axis=0) if is_scan_first else kernel
                    kernel = channels_first_inputs(kernel.T, policy.module.actor.picture).T
                order = (3, 2, 0, 1) if isinstance(slot, nn.Conv2d) else (1, 0)
                slot.weight.copy_(torch.tensor(kernel.transpose(order)))
                slot.bias.copy_(torch.tensor(layer.bias))
        try:
            found = compare_with_graph(
                graph, policy, metadata, 0, inputs=[sensors[one] for one in sorted(sensors)], output=output
            )
        except (ValueError, IndexError, KeyError, AssertionError, RecursionError) as error:
            raise GraphError(f"got a graph that cannot be run ({type(error).__name__}: {error})") from None
        if found <= TOLERANCE:
            return
        differences.append(found)
    raise GraphError(
        f"got layers as of {metadata.network} whose outputs differ by {min(differences):.2g} from that network's; "
        "expected pictures divided by 255, ReLU after each layer but the last, and probabilities or means"
    )
