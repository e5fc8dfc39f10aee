"""How far the inputs that are served lie from those of training, in Prometheus' text format.

An answer appends its observations to a list; they are summed in batches, in a memory-mapped file of each worker. The
worker that answers `/metrics` adds up all files, as for the other counters.
"""

from __future__ import annotations

import math
import mmap
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files import write_bytes

_PREFIX = "drift-"
_BATCH_ROWS = 1024
_MOST_INPUTS = 256  # pixels would be thousands of time series
_SMALLEST_STD = 1e-8  # what the observation filter adds


@dataclass(frozen=True)
class TrainingObservations:
    """Statistics of the observations that a policy was trained on: those of its observation filter at the export.

    Attributes:
        mean: (O,) mean of each input.
        std: (O,) standard deviation of each.
        clip: Standard deviations from the mean beyond which the filter clips an input.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    clip: float


def read_training_observations(manifest: Mapping[str, Any], inputs: int) -> TrainingObservations | None:
    """Reads the entry `training_observations` of a manifest; None where the policy has no observation filter.

    Args:
        manifest: The manifest; one of an earlier version has no such entry.
        inputs: Number of inputs that the policy has.

    Raises:
        ValueError: The entry does not describe these inputs.
    """
    given = manifest.get("training_observations")
    if given is None:
        return None
    found = TrainingObservations(np.array(given["mean"], np.float64), np.array(given["std"], np.float64), given["clip"])
    is_finite = np.isfinite(found.mean).all() and np.isfinite(found.std).all()
    if not (found.mean.shape == found.std.shape == (inputs,) and is_finite and (found.std >= 0).all()):
        raise ValueError(f"training_observations: expected the finite mean and deviation of {inputs} inputs")
    return found


class Drift:
    """This worker's sums of standardized inputs, z = (input - mean) / deviation.

    Args:
        folder: Folder of all workers' files.
        training: Statistics of training.
    """

    def __init__(self, folder: Path, training: TrainingObservations) -> None:
        self._folder = folder
        self._training = training
        inputs = len(training.mean)
        self._size = 1 + 2 * inputs
        path = folder / f"{_PREFIX}{uuid.uuid4().hex}"
        write_bytes(path, bytes(8 * self._size))
        with path.open("r+b") as shared:
            sums = np.frombuffer(mmap.mmap(shared.fileno(), 0), np.float64)
        self._count, self._z_sums, self._outside = sums[:1], sums[1 : 1 + inputs], sums[1 + inputs :]
        self._lock = threading.Lock()  # of the sums and the two below
        self._pending: list[NDArray[np.float32]] = []
        self._pending_rows = 0

    @classmethod
    def of_policy(cls, folder: Path, training: TrainingObservations | None) -> Drift | None:
        """Makes the sums of a policy; None where it has no statistics, or too many inputs."""
        return None if training is None or len(training.mean) > _MOST_INPUTS else cls(folder, training)

    def add(self, observations: NDArray[np.float32]) -> None:
        """Adds (B, …) observations; they are summed later unless there are many."""
        with self._lock:
            self._pending.append(observations)
            self._pending_rows += len(observations)
            if self._pending_rows < _BATCH_ROWS:
                return
            taken = self._take()
        self._sum(taken)

    def flush(self) -> None:
        """Sums what was added, so that other workers see it."""
        with self._lock:
            taken = self._take()
        self._sum(taken)

    def _take(self) -> list[NDArray[np.float32]]:
        taken, self._pending = self._pending, []
        self._pending_rows = 0
        return taken

    def _sum(self, parts: list[NDArray[np.float32]]) -> None:
        """Sums without the lock, as a large request takes long; a health check must not wait for it."""
        if not parts:
            return
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts])
        z = (rows - self._training.mean) / (self._training.std + _SMALLEST_STD)
        z_sums = z.sum(axis=0)
        outside = (np.abs(z) > self._training.clip).sum(axis=0)
        with self._lock:
            self._count += len(z)
            self._z_sums += z_sums
            self._outside += outside

    def text(self) -> str:
        """Returns the sums over all workers, in Prometheus' text format."""
        self.flush()
        files = self._folder.glob(f"{_PREFIX}*")
        total = sum((np.fromfile(path, np.float64, self._size) for path in files), np.zeros(self._size))
        inputs = len(self._training.mean)
        count, z_sums, outside = total[0], total[1 : 1 + inputs], total[1 + inputs :]
        shifts = z_sums / count if count else np.full(inputs, math.nan)
        lines = [
            "# HELP smrl_drift_observations_total Observations behind the three metrics below.",
            "# TYPE smrl_drift_observations_total counter",
            f"smrl_drift_observations_total {count:.0f}",
            "# HELP smrl_input_shift Mean of an input since the start less that of training, in its deviations.",
            "# TYPE smrl_input_shift gauge",
            *(f'smrl_input_shift{{input="{i}"}} {_number(shift)}' for i, shift in enumerate(shifts)),
            "# HELP smrl_input_shift_sum Sum of the same over observations; its change gives the shift of a time span.",
            "# TYPE smrl_input_shift_sum gauge",
            *(f'smrl_input_shift_sum{{input="{i}"}} {_number(z_sum)}' for i, z_sum in enumerate(z_sums)),
            "# HELP smrl_inputs_out_of_range_total Inputs that the policy's observation filter clipped.",
            "# TYPE smrl_inputs_out_of_range_total counter",
            *(f'smrl_inputs_out_of_range_total{{input="{i}"}} {number:.0f}' for i, number in enumerate(outside)),
        ]
        return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6g}"


NO_DRIFT = (
    "# No smrl_input_shift: models by name, a policy without an observation filter or with over "
    f"{_MOST_INPUTS} inputs, or an export of an earlier version (run `smrl export` again).\n"
)
