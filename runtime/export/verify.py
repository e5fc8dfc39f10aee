"""A fresh process that loads exported policies as a server would and computes their outputs.

`python -m runtime.export.verify` reads one JSON line from its standard input, `{"files": {"policy.onnx": …},
"observations": …, "outputs": …}`: where each format is, an .npy to run them on, and an .npz to write to, an array for
each `format|output`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from runtime.artifacts.exports import DEFAULT_SIGNATURE, OBSERVATIONS, OBSERVATIONS_ONLY, ONNX, SAVED_MODEL, TORCH
from runtime.export.graph_def import run_saved_model, zeros_for

_ROWS = 32  # at a time: images would fill the memory

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[NDArray[np.float32]], Arrays]


def load_saved_model(path: Path) -> Runner:
    """By our own reader: `serving_default`, and the main output of `observations_only` under its own name."""
    zeros = zeros_for(path, DEFAULT_SIGNATURE)

    def run(observations: NDArray[np.float32]) -> Arrays:
        outputs = run_saved_model(path, DEFAULT_SIGNATURE, zeros | {OBSERVATIONS: observations})
        alone = run_saved_model(path, OBSERVATIONS_ONLY, {OBSERVATIONS: observations})
        return outputs | {f"{OBSERVATIONS_ONLY}.{name}": value for name, value in alone.items()}

    return run


def load_onnx(path: Path) -> Runner:
    """By onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda observations: dict(zip(names, session.run(names, {OBSERVATIONS: observations}), strict=True))


def load_torch(path: Path) -> Runner:
    """By torch.export's own loader."""
    return partial(_run_torch, torch.export.load(str(path)).module())


def _run_torch(module: Any, observations: NDArray[np.float32]) -> Arrays:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module(torch.from_numpy(observations)).items()}


_LOADERS = {SAVED_MODEL: load_saved_model, ONNX: load_onnx, TORCH: load_torch}


def main() -> None:
    """Serves one request."""
    torch.set_num_threads(1)
    line = sys.stdin.readline()
    if not line:  # the exporter ended before it had anything to check
        return
    request = json.loads(line)
    observations = np.load(request["observations"])
    arrays: dict[str, Any] = {}
    for name, path in request["files"].items():
        run = _LOADERS[name](Path(path))
        chunks = [run(rows) for rows in _chunks(observations)]
        for output in chunks[0]:
            arrays[f"{name}|{output}"] = np.concatenate([chunk[output] for chunk in chunks])
    np.savez(request["outputs"], **arrays)


def _chunks(observations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One row alone, then many: the batch must be free."""
    return [observations[:1], *(observations[row : row + _ROWS] for row in range(1, len(observations), _ROWS))]


if __name__ == "__main__":
    main()
