"""Loads exported policies as a server would, and computes their outputs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.artifacts.exports import DEFAULT_SIGNATURE, OBSERVATIONS, OBSERVATIONS_ONLY, ONNX, SAVED_MODEL, TORCH
from runtime.errors import JobError
from runtime.export.graph_def import SavedModelReader

_ROWS = 32  # at a time: images would fill the memory
_TRACE_CHARS = 2000

Arrays = dict[str, NDArray[Any]]
# Computes outputs for inputs by name.
Runner = Callable[[Mapping[str, NDArray[np.float32]]], Arrays]


def load_saved_model(path: Path) -> Runner:
    """Runs a SavedModel by our own reader: `serving_default`, and the main output of `observations_only`."""
    model = SavedModelReader(path)
    zeros = model.zeros(DEFAULT_SIGNATURE)

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        outputs = model.run(DEFAULT_SIGNATURE, {**zeros, **inputs})
        alone = model.run(OBSERVATIONS_ONLY, inputs)
        return outputs | {f"{OBSERVATIONS_ONLY}.{name}": value for name, value in alone.items()}

    return run


def load_onnx(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime."""
    import onnxruntime  # starts threads, which a process that is forked from must not have

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def load_torch(path: Path) -> Runner:
    """Runs a .pt2 file with torch.export's own loader."""
    return partial(_run_torch, torch.export.load(str(path)).module())


def _run_torch(module: Any, inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module(*map(torch.from_numpy, inputs.values())).items()}


_LOADERS = {SAVED_MODEL: load_saved_model, ONNX: load_onnx, TORCH: load_torch}


def run_all(files: Mapping[str, Path], inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, Arrays]:
    """Computes each format's outputs, with its own runtime.

    Args:
        files: Path of each format.
        inputs: (B, …) values of the policy's inputs, by name and in the order of its graph.

    Returns:
        Outputs by name, for each format.

    Raises:
        JobError: A format could not be loaded or run.
    """
    found: dict[str, Arrays] = {}
    for name, path in files.items():
        try:
            run = _LOADERS[name](path)
            chunks = [run(rows) for rows in _chunks(inputs)]
        except Exception as error:  # the libraries raise many types of errors
            trace = traceback.format_exc()[-_TRACE_CHARS:]
            raise JobError(f"export: the exported {name} could not be loaded:\n{trace}") from error
        found[name] = {output: np.concatenate([chunk[output] for chunk in chunks]) for output in chunks[0]}
    return found


def _chunks(inputs: Mapping[str, NDArray[np.float32]]) -> list[dict[str, NDArray[np.float32]]]:
    """Splits rows into one alone and all the others, to show that the batch size is free."""
    count = len(inputs[OBSERVATIONS])
    parts = [slice(0, 1), *(slice(row, row + _ROWS) for row in range(1, count, _ROWS))]
    # Copies: ONNX Runtime takes contiguous arrays.
    return [{name: np.ascontiguousarray(rows[part]) for name, rows in inputs.items()} for part in parts]
