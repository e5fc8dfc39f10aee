"""Exports a policy: writes each format aside, has a fresh process run them, and keeps them only if they agree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import runtime
from runtime.checkpoint import is_whole
from runtime.errors import JobError, PlatformError, UserError
from runtime.export.graph import OBSERVATIONS, ONNX, SAVED_MODEL, TORCH, Graph, Tensor
from runtime.export.onnx_file import write_onnx
from runtime.export.parity import OBSERVATION_COUNT, TOLERANCE, make_observations, measure
from runtime.export.policy_graph import build_graph
from runtime.export.saved_model import DEFAULT_SIGNATURE, signatures, write_saved_model
from runtime.export.torch_program import write_torch
from runtime.manifest import note_exports, read_manifest
from runtime.model import read_space
from runtime.policy import Policy

_FORMATS = {SAVED_MODEL: "tensorflow-savedmodel", ONNX: "onnx", TORCH: "torch-export"}
_WRITERS = {SAVED_MODEL: write_saved_model, ONNX: write_onnx, TORCH: write_torch}
_ROOT = Path(runtime.__file__).resolve().parent.parent
_CHECK_TIMEOUT_S = 300

_Outputs = dict[str, NDArray[Any]]


def export_model(folder: Path, *, checkpoint: str = "checkpoint") -> list[dict[str, Any]]:
    """Exports the policy of a model directory into it, and notes the files in its manifest.

    Args:
        folder: The model directory.
        checkpoint: Which of its checkpoints, as `best`.

    Returns:
        What `export_policy` does.

    Raises:
        UserError: There is no such checkpoint, or the policy cannot be exported.
        JobError: A format does not agree with the policy.
        PlatformError: The folder cannot be written.
    """
    manifest = read_manifest(folder)
    if not is_whole(folder / checkpoint):
        raise UserError(f"checkpoint: got {checkpoint!r}, which {folder} does not hold; expected checkpoint or best.")
    policy = Policy.load(folder / checkpoint, settings=manifest)
    exports = export_policy(folder, policy, read_space(manifest["observation_space"]))
    note_exports(folder, exports, checkpoint=checkpoint)
    return exports


def largest_difference(exports: list[dict[str, Any]]) -> float:
    """Of all formats and outputs."""
    return max(float(max(export["parity"]["largest_difference"].values())) for export in exports)


def export_policy(folder: Path, policy: Policy, observation_space: gymnasium.Space[Any]) -> list[dict[str, Any]]:
    """Writes `1/saved_model.pb`, `policy.onnx` and `policy.pt2` into a folder.

    Args:
        folder: The model directory.
        policy: The trained policy.
        observation_space: What one observation is, unfiltered.

    Returns:
        For the manifest: file, format, sha256, inputs, outputs and measured parity of each format.

    Raises:
        UserError: The policy holds something that cannot be exported; nothing was written.
        JobError: A format does not agree with the policy; nothing was kept.
        PlatformError: The disk is full.
    """
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise UserError(f"export: got the observation space {observation_space}; expected a Box.")
    try:
        with _aside(folder) as aside, _fresh_process() as checker:
            graph = build_graph(policy, observation_space.shape)
            contents = {name: write(graph) for name, write in _WRITERS.items()}
            for name, content in contents.items():
                _write(aside / name, content)
            observations = make_observations(observation_space, policy.observation_filter)
            outputs = _run(checker, aside, observations)
            differences = _check(policy, observations, outputs)
            for name in contents:
                _move(aside / name, folder / name)
    except OSError as error:
        raise PlatformError(f"{folder}: the policy could not be exported: {error.strerror or error}.") from error
    return [_describe(graph, name, content, differences[name]) for name, content in contents.items()]


@contextmanager
def _fresh_process() -> Iterator[subprocess.Popen[str]]:
    """Starts the checker, which imports its libraries while the formats are written; ends it in any case."""
    # A session of its own, so that a Ctrl-C meant for the job does not reach it.
    command = [sys.executable, "-m", "runtime.export.verify"]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    # The name is one that the next start of a killed job sweeps away.
    with tempfile.TemporaryDirectory(prefix=".export.", suffix=".writing", dir=folder) as aside:
        yield Path(aside)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _run(checker: subprocess.Popen[str], aside: Path, observations: NDArray[np.float32]) -> dict[str, _Outputs]:
    """Each format's outputs, as the fresh process computed them."""
    np.save(aside / "observations.npy", observations)
    request = {"folder": aside, "observations": aside / "observations.npy", "outputs": aside / "outputs.npz"}
    try:
        said, _ = checker.communicate(json.dumps(request, default=str) + "\n", timeout=_CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise JobError(f"export: the exported files were not loaded within {_CHECK_TIMEOUT_S} s.") from None
    if checker.returncode != 0:
        raise JobError(f"export: a fresh process could not load the exported files:\n{said.strip()[-2000:]}")
    outputs: dict[str, _Outputs] = {}
    with np.load(aside / "outputs.npz") as arrays:
        for key in arrays:
            name, _, output = key.partition("|")
            outputs.setdefault(name, {})[output] = arrays[key]
    return outputs


def _check(
    policy: Policy,
    observations: NDArray[np.float32],
    outputs: Mapping[str, _Outputs],
) -> dict[str, dict[str, float]]:
    """The differences of each format, all within the tolerance."""
    trained = policy.outputs(observations)
    found = {name: measure(trained, outputs[name], policy.action_space) for name in _FORMATS}
    alone = outputs[SAVED_MODEL]
    assert np.array_equal(alone["observations_only.actions"], alone["actions"])
    wrong = [
        f"{name}: {output} differs by {difference:.2g}"
        for name, differences in found.items()
        for output, difference in differences.items()
        if not difference <= TOLERANCE
    ]
    if wrong:
        raise JobError(
            f"export: got outputs that are not the trained policy's on {OBSERVATION_COUNT} observations; expected "
            f"differences of at most {TOLERANCE:g}. Nothing was exported.\n  " + "\n  ".join(wrong)
        )
    return found


def _describe(graph: Graph, name: str, content: bytes, differences: Mapping[str, float]) -> dict[str, Any]:
    """A format's entry in the manifest."""
    all_signatures = signatures(graph)
    inputs, outputs = {OBSERVATIONS: graph.input}, dict(graph.output_types)
    if name == SAVED_MODEL:
        inputs, outputs = all_signatures[DEFAULT_SIGNATURE]
    described: dict[str, Any] = {
        "format": _FORMATS[name],
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "inputs": _as_json(inputs),
        "outputs": _as_json(outputs),
        "parity": {
            "observations": OBSERVATION_COUNT,
            "tolerance": TOLERANCE,
            "largest_difference": {output: float(f"{value:.3g}") for output, value in differences.items()},
        },
    }
    return described


def _as_json(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.as_json() for name, tensor in tensors.items()}
