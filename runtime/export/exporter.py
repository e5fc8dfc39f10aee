"""Exports a policy: writes each format, loads and runs it, and keeps the files only if outputs agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.exports import (
    ACTION_MASK,
    DEFAULT_SIGNATURE,
    OBSERVATIONS,
    OBSERVATIONS_ONLY,
    ONNX,
    PROBABILITIES,
    SAVED_MODEL,
    TORCH,
)
from runtime.artifacts.manifest import note_exports, read_manifest
from runtime.artifacts.model_directory import held_checkpoint
from runtime.artifacts.policy_file import read_policy
from runtime.errors import JobError, PlatformError, UserError
from runtime.export.bcq_graph import build_network_graph
from runtime.export.graph import Graph, Tensor
from runtime.export.onnx_file import write_onnx
from runtime.export.parity import OBSERVATION_COUNT, TOLERANCE, Outputs, make_observations, measure
from runtime.export.policy_graph import build_graph
from runtime.export.saved_model import signatures, write_saved_model
from runtime.export.torch_program import write_torch
from runtime.export.verify import run_all
from runtime.files import folder_aside, replace_file, write_bytes
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import FILE, NetworkPolicy
from runtime.policies.own_module import is_own
from runtime.policies.policy import Policy
from runtime.policies.spaces import count_choices, read_box

_FORMATS = {SAVED_MODEL: "tensorflow-savedmodel", ONNX: "onnx", TORCH: "torch-export"}
_WRITERS = {SAVED_MODEL: write_saved_model, ONNX: write_onnx, TORCH: write_torch}
_ROWS = 32
_CLEAR = 1e-5  # least gap between action values for a clear choice: float32 errors are smaller


@dataclass(frozen=True)
class Subject:
    """A policy to export, and the outputs to compare the exported files with.

    Attributes:
        graph: Graph to write.
        observations: (B, …) observations to compare on; a mask is part of them.
        trained: The training policy's outputs for them.
        exact: The same, computed in float64.
        scale: (B,) size of each observation as the network sees it, at least 1.
        action_space: Action space of the output `actions`; None if there is no such output.
        count: Number of different observations.
    """

    graph: Graph
    observations: NDArray[np.float32]
    trained: Outputs
    exact: Outputs
    scale: NDArray[Any]
    action_space: gymnasium.Space[Any] | None
    count: int = OBSERVATION_COUNT

    @classmethod
    def of_policy(cls, policy: Policy, space: gymnasium.spaces.Box) -> Subject:
        """Makes the subject from a policy of RLlib.

        Args:
            policy: The policy.
            space: Space of one unfiltered observation.

        Raises:
            UserError: It holds something that cannot be exported.
        """
        graph = build_graph(policy, space.shape)
        rows = make_observations(space, policy.observation_filter, counts=count_choices(policy.action_space))
        seen = rows if policy.observation_filter is None else policy.observation_filter(rows)
        scale = np.maximum(1.0, np.abs(seen.reshape(len(rows), -1)).max(axis=1))
        trained = _outputs(policy, rows)
        exact = _compute_exactly(policy, rows, trained)
        return cls(graph, rows, trained, exact, scale, policy.action_space)

    @classmethod
    def of_network_policy(cls, policy: NetworkPolicy, space: gymnasium.spaces.Box) -> Subject:
        """Makes the subject from a policy that learned from a log.

        Choices among actions are compared where they are clear: rounding may decide between two actions whose values
        agree to five digits.

        Args:
            policy: The policy.
            space: Space of one unfiltered observation.

        Raises:
            UserError: It cannot be exported.
        """
        graph = build_network_graph(policy)
        size = policy.mask_size
        rows = make_observations(space, policy.observation_filter, counts=(size,) if size else ())
        exact = policy.in_double()
        count = len(rows)
        if policy.kind != "actor":
            clear = rows[policy.margins(rows) > _CLEAR]
            if not len(clear):
                raise UserError("export: got a policy that finds all actions equally good everywhere; train it longer.")
            count = len(clear)
            rows = np.resize(clear, rows.shape)
        ones = np.ones(len(rows))
        if policy.kind == "greedy":
            trained, true = ({PROBABILITIES: one.probabilities(rows)} for one in (policy, exact))
            return cls(graph, rows, trained, true, ones, None, count)
        trained, true = ({"actions": one.actions(rows)} for one in (policy, exact))
        box = gymnasium.spaces.Box(policy.low, policy.high, dtype=np.float32)
        return cls(graph, rows, trained, true, ones, box, count)

    @property
    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The graph's inputs by name: the observations, and their mask where it is an input of its own."""
        if ACTION_MASK not in self.graph.inputs:
            return {OBSERVATIONS: self.observations}
        size = self.graph.inputs[ACTION_MASK].shape[1]
        assert size is not None
        return {OBSERVATIONS: self.observations[:, :-size], ACTION_MASK: self.observations[:, -size:]}


def _compute_exactly(policy: Policy, rows: NDArray[np.float32], trained: Outputs) -> Outputs:
    """Returns the outputs computed in float64; the trained ones for a user's network that computes in float32 alone."""
    try:
        return _outputs(policy.in_double(), rows)
    except RuntimeError:
        if is_own(policy.module):
            return trained
        raise


def _outputs(policy: Policy, rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Computes the outputs a few rows at a time, as all images at once took 4 GB."""
    parts = [policy.outputs(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def export_model(folder: Path, *, checkpoint: str = "checkpoint", trust: bool = False) -> list[dict[str, Any]]:
    """Exports the policy of a model directory into it, and notes the files in its manifest.

    Args:
        folder: The model directory.
        checkpoint: Name of the checkpoint in the model directory, as `best`.
        trust: Whether pickles of an older checkpoint may be read.

    Returns:
        The entries of the manifest, as `export` returns them.

    Raises:
        UserError: There is no such checkpoint, or the policy cannot be exported.
        JobError: A format does not agree with the policy.
        PlatformError: The folder cannot be written.
    """
    manifest = read_manifest(folder)
    source = held_checkpoint(folder, checkpoint)
    space = read_box(manifest["observation_space"])
    if "normalize_actions" in manifest:  # else it learned from a log, which has actions as the environment takes them
        policy = read_policy(source, settings=manifest, trust=trust)
        subject = Subject.of_policy(policy, space)
        observation_filter = policy.observation_filter
        if observation_filter is not None:
            observation_filter = observation_filter.without_last(policy.mask_size)
    else:
        learned = NetworkPolicy.load(source / FILE)
        subject = Subject.of_network_policy(learned, space)
        observation_filter = learned.observation_filter
    try:
        with _written_and_checked(subject, folder) as (aside, exports):
            # A kill in between leaves a manifest without exports, never one that describes other files.
            note_exports(folder, [], {}, checkpoint=checkpoint, not_exported="the export was interrupted")
            for name in _FORMATS:
                _move(aside / _flatten_name(name), folder / name)
            note_exports(
                folder,
                exports,
                describe_signatures(subject.graph),
                checkpoint=checkpoint,
                training_observations=describe_filter(observation_filter),
            )
    except OSError as error:
        raise PlatformError(f"{folder}: the policy could not be exported: {error.strerror or error}.") from None
    return exports


def export(subject: Subject, folder: Path) -> list[dict[str, Any]]:
    """Writes `1/saved_model.pb`, `policy.onnx` and `policy.pt2` into a folder.

    Returns:
        Entries of the manifest: file, format, sha256, inputs, outputs and measured parity of each format.

    Raises:
        JobError: A format does not agree with the policy; nothing was kept.
    """
    with _written_and_checked(subject, folder) as (aside, exports):
        for name in _FORMATS:
            _move(aside / _flatten_name(name), folder / name)
    return exports


@contextmanager
def _written_and_checked(subject: Subject, folder: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Writes and checks all formats in a temporary folder; yields it with the entries of the manifest."""
    with folder_aside(folder, "export") as aside:
        contents = {name: write(subject.graph) for name, write in _WRITERS.items()}
        files = {name: aside / _flatten_name(name) for name in _FORMATS}
        for name, content in contents.items():
            write_bytes(files[name], content)
        outputs = run_all(files, subject.inputs)
        differences = _check(subject, outputs)
        yield aside, [_describe(subject, name, contents[name], differences[name]) for name in _FORMATS]


def _flatten_name(name: str) -> str:
    """Flattens a file's name for the temporary folder; TF Serving would load a folder `1` left by a killed job."""
    return name.replace("/", "-")


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(source, target)


def _check(subject: Subject, outputs: Mapping[str, Outputs]) -> dict[str, dict[str, float]]:
    """Checks that the differences of each format are within the tolerance, and returns them."""
    main = subject.graph.main_output
    found = {}
    for name in _FORMATS:
        found[name] = measure(
            subject.trained, subject.exact, outputs[name], scale=subject.scale, action_space=subject.action_space
        )
    alone = outputs[SAVED_MODEL]
    if not np.array_equal(alone[f"{OBSERVATIONS_ONLY}.{main}"], alone[main]):
        found[SAVED_MODEL][f"{OBSERVATIONS_ONLY}.{main}"] = float("inf")
    wrong = [
        f"{name}: {output} differs by {difference:.2g}"
        for name, differences in found.items()
        for output, difference in differences.items()
        if not difference <= TOLERANCE
    ]
    if wrong:
        raise JobError(
            f"export: got outputs that are not the trained policy's on {subject.count} observations; expected "
            f"differences of at most {TOLERANCE:g}. Nothing was exported.\n  " + "\n  ".join(wrong)
        )
    return found


def _describe(subject: Subject, name: str, content: bytes, differences: Mapping[str, float]) -> dict[str, Any]:
    """Describes a format for the manifest."""
    graph = subject.graph
    inputs = dict(graph.inputs)
    outputs = dict(graph.output_types)
    if name == SAVED_MODEL:
        inputs, outputs = signatures(graph)[DEFAULT_SIGNATURE]
    return {
        "format": _FORMATS[name],
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "inputs": _as_json(inputs),
        "outputs": _as_json(outputs),
        "parity": {
            "observations": subject.count,
            "tolerance": TOLERANCE,
            "largest_difference": {output: float(f"{value:.3g}") for output, value in differences.items()},
        },
    }


def describe_signatures(graph: Graph) -> dict[str, Any]:
    """Inputs and outputs of each signature, for the manifest."""
    return {
        name: {"inputs": _as_json(inputs), "outputs": _as_json(outputs)}
        for name, (inputs, outputs) in signatures(graph).items()
    }


def describe_filter(observation_filter: ObservationFilter | None) -> dict[str, Any] | None:
    """Statistics of the training's observations, for the manifest; None if there is no filter that has them."""
    if observation_filter is None:
        return None
    return {
        "mean": observation_filter.mean.ravel().tolist(),
        "std": observation_filter.std.ravel().tolist(),
        "clip": observation_filter.clip,
    }


def _as_json(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.as_json() for name, tensor in tensors.items()}
