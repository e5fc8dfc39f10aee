"""Loads exported policies as a server would and computes their outputs, in a process apart.

The process is a fork of this one, which has imported torch already: a new one would take four CPU-seconds to do so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.artifacts.exports import DEFAULT_SIGNATURE, OBSERVATIONS, OBSERVATIONS_ONLY, ONNX, SAVED_MODEL, TORCH
from runtime.errors import JobError
from runtime.export.graph_def import SavedModelReader

_ROWS = 32  # at a time: images would fill the memory
# SageMaker gives a stopped job 120 s, which the export must fit into.
_TIMEOUT_S = 90
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[NDArray[np.float32]], Arrays]


def load_saved_model(path: Path) -> Runner:
    """Runs a SavedModel by our own reader: `serving_default`, and the main output of `observations_only`."""
    model = SavedModelReader(path)
    zeros = model.zeros(DEFAULT_SIGNATURE)

    def run(observations: NDArray[np.float32]) -> Arrays:
        outputs = model.run(DEFAULT_SIGNATURE, zeros | {OBSERVATIONS: observations})
        alone = model.run(OBSERVATIONS_ONLY, {OBSERVATIONS: observations})
        return outputs | {f"{OBSERVATIONS_ONLY}.{name}": value for name, value in alone.items()}

    return run


def load_onnx(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime."""
    import onnxruntime  # here alone, in the process apart: a process with its threads cannot be forked from

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda observations: dict(zip(names, session.run(names, {OBSERVATIONS: observations}), strict=True))


def load_torch(path: Path) -> Runner:
    """Runs a .pt2 file with torch.export's own loader."""
    return partial(_run_torch, torch.export.load(str(path)).module())


def _run_torch(module: Any, observations: NDArray[np.float32]) -> Arrays:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module(torch.from_numpy(observations)).items()}


_LOADERS = {SAVED_MODEL: load_saved_model, ONNX: load_onnx, TORCH: load_torch}


def run_apart(files: Mapping[str, Path], observations: NDArray[np.float32], aside: Path) -> dict[str, Arrays]:
    """Computes each format's outputs in a process apart.

    Args:
        files: Path of each format.
        observations: (B, …) observations.
        aside: Folder for the process's files.

    Returns:
        Outputs by name, for each format.

    Raises:
        JobError: A format could not be loaded, or the process did not end in time.
    """
    outputs, said = aside / "outputs.npz", aside / "said.txt"
    said.touch()
    process = get_context("fork").Process(target=_run_all, args=(files, observations, outputs, said))
    process.start()
    try:
        process.join(_TIMEOUT_S)
        if process.is_alive():
            raise JobError(f"export: the exported files were not loaded within {_TIMEOUT_S} s.")
    finally:
        process.kill()
        process.join()
    if process.exitcode != 0:
        text = said.read_text(errors="replace").strip()[-2000:] or f"the process ended with {process.exitcode}"
        raise JobError(f"export: the exported files could not be loaded:\n{text}")
    found: dict[str, Arrays] = {}
    with np.load(outputs) as arrays:
        for key in arrays:
            name, _, output = key.partition("|")
            found.setdefault(name, {})[output] = arrays[key]
    return found


def _run_all(files: Mapping[str, Path], observations: NDArray[np.float32], outputs: Path, said: Path) -> None:
    """Writes an array for each `format|output`; ends the process with 1 if that fails."""
    os.setsid()  # a Ctrl-C that is meant for the job does not reach it
    # The kernel ends it with the job's process, whose locks it has inherited.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # the job's handlers are the job's
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        torch.set_num_threads(1)
        arrays: dict[str, Any] = {}
        for name, path in files.items():
            run = _LOADERS[name](path)
            chunks = [run(rows) for rows in _chunks(observations)]
            for output in chunks[0]:
                arrays[f"{name}|{output}"] = np.concatenate([chunk[output] for chunk in chunks])
        np.savez(outputs, **arrays)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)  # nothing that the job has registered for its own end runs here


def _chunks(observations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Splits rows into one alone and all the others, to show that the batch size is free."""
    return [observations[:1], *(observations[row : row + _ROWS] for row in range(1, len(observations), _ROWS))]
