"""Counters that all worker processes share, in Prometheus' text format.

Each worker counts in a memory-mapped file of its own. The worker that answers `/metrics` adds up all files. The file of
a dead worker stays, so that the sums never decrease.
"""

from __future__ import annotations

import mmap
import uuid
from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.files import write_bytes

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
STATUS_CLASSES = ("2xx", "4xx", "5xx")
_PREFIX = "counters-"
# Requests by class, observations, seconds, the histogram's buckets, then captured and dropped lines, and the shadow's.
_OBSERVATIONS = len(STATUS_CLASSES)
_SECONDS = len(STATUS_CLASSES) + 1
_FIRST_BUCKET = len(STATUS_CLASSES) + 2
_CAPTURED = _FIRST_BUCKET + len(BUCKETS_S) + 1
_DROPPED = _CAPTURED + 1
_SHADOW_CAPTURED = _DROPPED + 1
_SHADOW_DROPPED = _SHADOW_CAPTURED + 1
_SIZE = _SHADOW_DROPPED + 1


class Counters:
    """This worker's counters.

    prometheus_client's multi-process mode counts the same, in 5.8 µs a request where this takes 0.7 µs (medians of
    benchmarks/counters.md); more than 5 µs would be felt in a request of 100 µs.

    Args:
        folder: Folder of all workers' files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Not named by pid, which a later worker may reuse.
        path = folder / f"{_PREFIX}{uuid.uuid4().hex}"
        write_bytes(path, bytes(8 * _SIZE))
        with path.open("r+b") as shared:
            # A view of floats: adding to it takes a tenth of what an array would.
            self._counts = memoryview(mmap.mmap(shared.fileno(), 0)).cast("d")

    def count(self, status: int, observations: int, seconds: float) -> None:
        """Counts one invocation."""
        counts = self._counts
        counts[0 if status < 400 else 1 if status < 500 else 2] += 1
        counts[_OBSERVATIONS] += observations
        counts[_SECONDS] += seconds
        counts[_FIRST_BUCKET + bisect_left(BUCKETS_S, seconds)] += 1

    def count_captured(self, captured: int, dropped: int) -> None:
        """Counts lines of the capture; the caller sees to it that two threads never do at once."""
        self._counts[_CAPTURED] += captured
        self._counts[_DROPPED] += dropped

    def count_shadow(self, captured: int, dropped: int) -> None:
        """Counts lines of the shadow's capture, by the same rule."""
        self._counts[_SHADOW_CAPTURED] += captured
        self._counts[_SHADOW_DROPPED] += dropped

    def text(self) -> str:
        """Returns the sums over all workers, in Prometheus' text format."""
        total = sum((_read(path) for path in self._folder.glob(f"{_PREFIX}*")), np.zeros(_SIZE))
        lines = [
            "# HELP smrl_invocations_total Invocations by class of status.",
            "# TYPE smrl_invocations_total counter",
        ]
        lines += [f'smrl_invocations_total{{status="{kind}"}} {total[i]:.0f}' for i, kind in enumerate(STATUS_CLASSES)]
        lines += ["# HELP smrl_observations_total Observations answered.", "# TYPE smrl_observations_total counter"]
        lines += [f"smrl_observations_total {total[_OBSERVATIONS]:.0f}"]
        lines += [
            "# HELP smrl_invocation_seconds From the whole body's arrival to the whole answer.",
            "# TYPE smrl_invocation_seconds histogram",
        ]
        below = np.cumsum(total[_FIRST_BUCKET:_CAPTURED])
        bounds = [f"{bound:g}" for bound in BUCKETS_S] + ["+Inf"]
        lines += [
            f'smrl_invocation_seconds_bucket{{le="{bound}"}} {count:.0f}'
            for bound, count in zip(bounds, below, strict=True)
        ]
        lines += [
            f"smrl_invocation_seconds_sum {total[_SECONDS]:.6f}",
            f"smrl_invocation_seconds_count {below[-1]:.0f}",
            "# HELP smrl_captured_total Lines of the capture that are on the disk.",
            "# TYPE smrl_captured_total counter",
            f"smrl_captured_total {total[_CAPTURED]:.0f}",
            "# HELP smrl_capture_dropped_total Lines of the capture that were dropped.",
            "# TYPE smrl_capture_dropped_total counter",
            f"smrl_capture_dropped_total {total[_DROPPED]:.0f}",
            "# HELP smrl_shadow_captured_total Decisions of the shadow that are on the disk.",
            "# TYPE smrl_shadow_captured_total counter",
            f"smrl_shadow_captured_total {total[_SHADOW_CAPTURED]:.0f}",
            "# HELP smrl_shadow_dropped_total Decisions of the shadow that were dropped.",
            "# TYPE smrl_shadow_dropped_total counter",
            f"smrl_shadow_dropped_total {total[_SHADOW_DROPPED]:.0f}",
        ]
        return "\n".join(lines) + "\n"


def _read(path: Path) -> NDArray[np.float64]:
    return np.fromfile(path, np.float64, _SIZE)
