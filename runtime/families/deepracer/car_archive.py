"""A policy for a physical car: `agent/model.pb` beside the other exports, and the archive that cars import."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef

from envs import DEEPRACER_ID
from envs.deepracer.metadata import Metadata, parse_metadata
from envs.deepracer.racing import action_space
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.artifacts.checkpoint import read_state
from runtime.artifacts.exports import CAR_MODEL
from runtime.artifacts.policy_file import read_policy
from runtime.errors import JobError, PlatformError, UserError
from runtime.export.graph_def import FrozenGraph
from runtime.export.parity import TOLERANCE
from runtime.families.deepracer.car_model import car_sensors, input_name, output_name, write_car_model
from runtime.families.deepracer.driving import Explorer
from runtime.files import write_bytes
from runtime.policies.policy import Policy

METADATA = "model_metadata.json"
_CHECKED = 64
_ROWS = 16
_FARTHEST_M = 2.0


def write_agent_model(checkpoint: Path, folder: Path) -> None:
    """Writes `agent/model.pb` into a model directory, as the original simulator does.

    Raises:
        UserError: Cars cannot run the policy.
        JobError: The file does not compute what the policy does.
    """
    policy, metadata = _read(checkpoint, trust=False)
    content, _ = _write_checked(policy, metadata)
    (folder / CAR_MODEL).parent.mkdir(exist_ok=True)
    write_bytes(folder / CAR_MODEL, content)


def write_car_archive(checkpoint: Path, target: Path, *, trust: bool) -> list[str]:
    """Writes the archive that a car's console, a USB stick and DeepRacer on AWS import.

    Args:
        checkpoint: The policy's checkpoint.
        target: The archive; its name up to the first dot is the model's name on the car.
        trust: Whether pickles of an older checkpoint may be read.

    Returns:
        Lines that say what was written.

    Raises:
        UserError: Cars cannot run the policy.
        JobError: The file does not compute what the policy does.
        PlatformError: The archive could not be written.
    """
    policy, metadata = _read(checkpoint, trust=trust)
    content, difference = _write_checked(policy, metadata)
    described = json.dumps(describe_for_car(metadata), indent=2).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, _pack({CAR_MODEL: content, METADATA: described}))
    except OSError as error:
        raise PlatformError(f"{target}: could not be written: {error.strerror or error}.") from None
    what = "probabilities" if metadata.actions is not None else "steering and speed"
    lines = [
        f"wrote {target}: {CAR_MODEL} ({len(content):,} bytes) and {METADATA}",
        f"its {what} are within {difference:.1g} of the policy's on {_CHECKED} pictures",
    ]
    if metadata.camera == "STEREO_CAMERAS":
        lines.append("the community's car software mixes up the pictures of two cameras; AWS's does not")
    if metadata.lidar is not None:
        lines.append("few cars run a camera and a LIDAR together: converters order the two inputs differently")
    return lines


def describe_for_car(metadata: Metadata) -> dict[str, Any]:
    """Returns the car's model_metadata.json, with the keys and names that cars and DeepRacer on AWS insist on."""
    return {
        **metadata.source,
        "sensor": list(car_sensors(metadata)),
        "training_algorithm": metadata.algorithm,
        "action_space_type": "discrete" if metadata.actions is not None else "continuous",
        "neural_network": metadata.network,
    }


def _read(checkpoint: Path, *, trust: bool) -> tuple[Policy, Metadata]:
    state = read_state(checkpoint)
    if state.env != DEEPRACER_ID:
        raise UserError(f"--car: got a model of {state.env}; expected one of {DEEPRACER_ID}, which cars can run.")
    metadata = parse_metadata(state.policy["env_config"]["model_metadata"])
    return read_policy(checkpoint, action_space(metadata), settings=state.policy, trust=trust), metadata


def _write_checked(policy: Policy, metadata: Metadata) -> tuple[bytes, float]:
    """Returns the file and its largest difference from the policy, computed from the file's bytes."""
    content = write_car_model(policy, metadata)
    graph = FrozenGraph(GraphDef.FromString(content).node)
    inputs = [input_name(sensor, metadata.algorithm) for sensor in car_sensors(metadata)]
    output = output_name(metadata.algorithm)
    parts = range(_CHECKED // _ROWS)
    difference = max(compare_with_graph(graph, policy, metadata, part, inputs=inputs, output=output) for part in parts)
    if not difference <= TOLERANCE:
        raise JobError(
            f"export: {CAR_MODEL} differs from the policy by {difference:.2g}; expected at most {TOLERANCE:g}."
        )
    return content, difference


def compare_with_graph(
    graph: FrozenGraph, policy: Policy, metadata: Metadata, part: int, *, inputs: list[str], output: str
) -> float:
    """Returns the largest difference of a graph's outputs from a policy's, on pictures of noise.

    Args:
        graph: The graph.
        policy: The policy.
        metadata: Metadata of its car.
        part: Seed of the pictures.
        inputs: Names of the graph's inputs, the camera's first.
        output: Name of its output.
    """
    random = np.random.default_rng(part)
    channels = 2 if metadata.camera == "STEREO_CAMERAS" else 1
    pictures = random.integers(0, 256, (_ROWS, HEIGHT, WIDTH, channels), np.uint8)
    feeds: dict[str, NDArray[Any]] = {inputs[0]: pictures.astype(np.float32)}
    rows: NDArray[Any] = pictures
    if metadata.lidar is not None:
        feeds[inputs[1]] = random.uniform(0, _FARTHEST_M, (_ROWS, metadata.scan_size)).astype(np.float32)
        both = [feeds[inputs[0]].reshape(_ROWS, -1), feeds[inputs[1]]]
        is_picture_first = metadata.sensors == tuple(sorted(metadata.sensors))
        rows = np.concatenate(both if is_picture_first else both[::-1], axis=1)
    logits = policy.logits(rows)
    if metadata.actions is not None:
        expected = torch.softmax(torch.as_tensor(logits), 1).numpy()
    else:
        expected = Explorer(metadata, seed=None).likeliest(logits)
    (found,) = graph.run([output], feeds)
    return float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))))


def _pack(files: dict[str, bytes]) -> bytes:
    """Packs files; cars unpack one layer of gzip, and then a plain tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
