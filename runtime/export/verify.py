"""A fresh process that loads exported policies as a server would and computes their outputs.

`python -m runtime.export.verify` reads one JSON line from its standard input, `{"folder": …, "observations": …,
"outputs": …}`: the folder of the files, an .npy to run them on, an .npz to write to, an array for each `format/output`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from runtime.export.graph import OBSERVATIONS, ONNX, SAVED_MODEL, TORCH
from runtime.export.graph_def import run_saved_model, zeros_for

_ROWS = 32  # at a time: images would fill the memory

Arrays = dict[str, NDArray[Any]]


def run_savedmodel(path: Path, observations: NDArray[np.float32]) -> Arrays:
    """By our own reader: `serving_default`, and the main output of `observations_only` under its own name."""
    feeds = zeros_for(path, "serving_default")
    outputs = run_saved_model(path, "serving_default", feeds | {OBSERVATIONS: observations})
    alone = run_saved_model(path, "observations_only", {OBSERVATIONS: observations})
    return outputs | {f"observations_only.{name}": value for name, value in alone.items()}


def run_onnx(path: Path, observations: NDArray[np.float32]) -> Arrays:
    """By onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {OBSERVATIONS: observations}), strict=True))


def run_torch(path: Path, observations: NDArray[np.float32]) -> Arrays:
    """By torch.export's own loader."""
    with torch.inference_mode():
        outputs = _load_program(path)(torch.from_numpy(observations))
    return {name: value.numpy() for name, value in outputs.items()}


_programs: dict[Path, Any] = {}


def _load_program(path: Path) -> Any:
    if path not in _programs:
        _programs[path] = torch.export.load(str(path)).module()
    return _programs[path]


RUNNERS = {SAVED_MODEL: run_savedmodel, ONNX: run_onnx, TORCH: run_torch}


def main() -> None:
    """Serves one request."""
    torch.set_num_threads(1)
    line = sys.stdin.readline()
    if not line:  # the exporter ended before it had anything to check
        return
    request = json.loads(line)
    observations = np.load(request["observations"])
    arrays: dict[str, Any] = {}
    for name, run in RUNNERS.items():
        chunks = [run(Path(request["folder"]) / name, rows) for rows in _chunks(observations)]
        for output in chunks[0]:
            arrays[f"{name}|{output}"] = np.concatenate([chunk[output] for chunk in chunks])
    np.savez(request["outputs"], **arrays)


def _chunks(observations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One row alone, then many: the batch must be free."""
    return [observations[:1], *(observations[row : row + _ROWS] for row in range(1, len(observations), _ROWS))]


if __name__ == "__main__":
    main()
