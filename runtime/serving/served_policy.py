"""Loads an exported policy: its inputs, its outputs, and the ONNX session that runs it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.artifacts.exports import (
    ACTION_MASK,
    ALIASES,
    DEFAULT_SIGNATURE,
    OBSERVATIONS,
    OBSERVATIONS_ONLY,
    PROBABILITIES,
)
from runtime.artifacts.manifest import MANIFEST, find_model_directory, list_policies, read_manifest
from runtime.errors import UserError
from runtime.serving.drift import TrainingObservations, read_training_observations

_ID_DIGITS = 16
# Outputs that discrete actions are sampled from; the first that a policy has.
_SAMPLED = (PROBABILITIES, "behaviour_logits", "q_values")


@dataclass(frozen=True)
class Input:
    """A named input of a signature.

    Attributes:
        dtype: NumPy's name of the type.
        shape: Shape of one row; None for an unread input, which may have any shape.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class ServedPolicy:
    """An exported policy in memory.

    Attributes:
        name: Name of the environment that it was trained in.
        inputs: Inputs of the signature `serving_default`, by name.
        outputs: Outputs of the signature `serving_default`, in the order that they are returned.
        main_output: The output that the signature `observations_only` returns.
        observation_shape: Shape of one observation, without a mask.
        session: ONNX Runtime session, which is safe to use from several threads.
        model_id: First digits of the sha256 of its ONNX file.
        training: Statistics of its training's observations, if its export has them.
    """

    name: str
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    main_output: str
    observation_shape: tuple[int, ...]
    session: Any
    model_id: str = ""
    training: TrainingObservations | None = None

    @cached_property
    def read(self) -> tuple[str, ...]:
        """Names of the inputs that the policy reads: the observations, and an action mask if it takes one."""
        return (OBSERVATIONS, ACTION_MASK) if self.mask_size else (OBSERVATIONS,)

    @cached_property
    def unread(self) -> tuple[tuple[str, str], ...]:
        """Name and dtype of the inputs that clients must send although the policy does not read them."""
        return tuple((name, tensor.dtype) for name, tensor in self.inputs.items() if name not in self.read)

    @cached_property
    def mask_size(self) -> int:
        """Numbers of an action mask; 0 if the policy takes none."""
        mask = self.inputs.get(ACTION_MASK)
        return mask.shape[0] if mask is not None and mask.shape else 0

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one observation with its mask after it."""
        return (self.observation_shape[0] + self.mask_size,) if self.mask_size else self.observation_shape

    def numbers_of(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (B, O) observations without the masks at their end."""
        return observations[:, : self.observation_shape[0]] if self.mask_size else observations

    def masks_of(self, observations: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Returns the (B, M) masks at the end of observations (B, O + M), or None if the policy takes none."""
        return observations[:, -self.mask_size :] != 0 if self.mask_size else None

    @cached_property
    def sampling_source(self) -> str | None:
        """The output to sample discrete actions from; None if there is not one discrete action, numbered from 0."""
        found = next((name for name in _SAMPLED if name in self.outputs), None)
        if found != "behaviour_logits":
            return found
        outputs = self.run(np.zeros((1, *self.row_shape), np.float32), self.outputs)
        actions = outputs["actions"]
        is_discrete = actions.ndim == 1 and np.issubdtype(actions.dtype, np.integer)
        return found if is_discrete and actions[0] == outputs[found][0].argmax() else None

    def run(self, observations: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Computes outputs by name for (B, …) observations, with their masks after them if the policy takes masks."""
        wanted, places = _plan(outputs)
        inputs = {OBSERVATIONS: observations}
        if self.mask_size:
            numbers, masks = np.split(observations, [self.observation_shape[0]], axis=1)
            inputs = {OBSERVATIONS: np.ascontiguousarray(numbers), ACTION_MASK: np.ascontiguousarray(masks)}
        found = self.session.run(wanted, inputs)
        return {name: found[place] for name, place in places}


@cache
def _plan(outputs: tuple[str, ...]) -> tuple[list[str], list[tuple[str, int]]]:
    """Returns the names to compute for these outputs, and the position of each output in them."""
    wanted = list(dict.fromkeys(ALIASES.get(name, name) for name in outputs))
    return wanted, [(name, wanted.index(ALIASES.get(name, name))) for name in outputs]


def load_policy(place: Path) -> ServedPolicy:
    """Loads the policy of a model directory, and runs it once on an observation.

    Args:
        place: The model directory, or a results folder; may be read-only.

    Raises:
        UserError: There is no exported policy, or its file is not the one that the manifest describes.
    """
    folder = find_model_directory(place)
    manifest = read_manifest(folder)
    try:
        return _load(folder, manifest)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # an edited manifest may raise anything, and so may onnxruntime
        raise UserError(
            f"{folder / MANIFEST}: got a description that its policy cannot be loaded by ({type(error).__name__}: "
            f"{error}); expected what `smrl export` wrote. Run `smrl export {folder}` again."
        ) from error


def _load(folder: Path, manifest: Mapping[str, Any]) -> ServedPolicy:
    if policies := list_policies(manifest):
        raise UserError(
            f"{folder}: got a model of the policies {', '.join(policies)}; expected one of them, as a server has one. "
            f"Serve {folder / policies[0]}."
        )
    exports = {export["format"]: export for export in manifest.get("exports", [])}
    if "onnx" not in exports:
        why = f" ({manifest['not_exported']})" if manifest.get("not_exported") else ""
        raise UserError(f"{folder}: got a model without an exported policy{why}; run `smrl export {folder}` first.")
    default, alone = (manifest["signatures"][name] for name in (DEFAULT_SIGNATURE, OBSERVATIONS_ONLY))
    (main_output,) = alone["outputs"]
    shape = tuple(alone["inputs"][OBSERVATIONS]["shape"][1:])
    policy = ServedPolicy(
        name=str(manifest.get("env") or manifest.get("algorithm", folder)),
        inputs={name: _input(tensor) for name, tensor in default["inputs"].items()},
        outputs=tuple(default["outputs"]),
        main_output=main_output,
        observation_shape=shape,
        session=open_session(_read(folder, exports["onnx"])),
        model_id=exports["onnx"]["sha256"][:_ID_DIGITS],
        training=read_training_observations(manifest, math.prod(shape)),
    )
    policy.run(np.zeros((1, *policy.row_shape), np.float32), policy.outputs)
    return policy


def _read(folder: Path, export: Mapping[str, Any]) -> bytes:
    path = folder / export["file"]
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: got no file ({error.strerror}); run `smrl export {folder}` again.") from None
    if hashlib.sha256(content).hexdigest() != export["sha256"]:
        raise UserError(
            f"{path}: got {len(content):,} bytes whose sha256 is not the manifest's; expected the file as it was "
            f"exported. Copy the model again, or run `smrl export {folder}`."
        )
    return content


def _input(tensor: Mapping[str, Any]) -> Input:
    return Input(tensor["dtype"], tuple(tensor["shape"][1:]) if tensor["shape"] else None)


def open_session(content: bytes) -> Any:
    """Opens an ONNX Runtime session of one thread on the content of a file."""
    options = onnxruntime.SessionOptions()
    # There is one worker per core, so a second thread in a session would only compete with the others.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
