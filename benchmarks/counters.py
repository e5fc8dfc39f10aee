"""What counting one request costs: runtime/serving/counters.py beside prometheus_client in its multi-process mode.

Run: make bench-counters (writes benchmarks/counters.md and prints it; a few seconds). Both count the same four metrics
into files that several worker processes share.
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from runtime.serving.counters import BUCKETS_S, STATUS_CLASSES, Counters

_ROUNDS = 100
_REQUESTS = 2_000
_US = 1e6

Count = Callable[[int, int, float], None]


def main() -> None:
    """Measures both in turn and writes the table."""
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as peers:
        counts: dict[str, Count] = {
            "`runtime/serving/counters.py`": Counters(Path(ours)).count,
            f"prometheus_client {version('prometheus_client')}, multi-process mode": _prometheus_count(Path(peers)),
        }
        times: dict[str, list[float]] = {name: [] for name in counts}
        for _ in range(_ROUNDS):
            for name, count in counts.items():
                times[name].append(_seconds_per_request(count))
    rows = [f"| {name} | {_US * statistics.median(t):.1f} | {_US * min(t):.1f} |" for name, t in times.items()]
    lines = [
        "# Serving: the cost of counting a request",
        "",
        f"`make bench-counters` on {os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}; "
        f"{_ROUNDS} rounds of {_REQUESTS:,} requests each, in turn.",
        "",
        "| | median (us) | fastest round (us) |",
        "|---|---|---|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


def _prometheus_count(folder: Path) -> Count:
    """The same metrics in prometheus_client, with label children looked up once.

    The folder must be in the environment before the first import: prometheus_client decides there whether it shares.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    client = importlib.import_module("prometheus_client")
    invocations = client.Counter("smrl_invocations_total", "Invocations by class of status.", ["status"])
    by_class = [invocations.labels(name) for name in STATUS_CLASSES]
    observations = client.Counter("smrl_observations_total", "Observations answered.")
    seconds_histogram = client.Histogram("smrl_invocation_seconds", "Seconds of each invocation.", buckets=BUCKETS_S)

    def count(status: int, rows: int, seconds: float) -> None:
        by_class[0 if status < 400 else 1 if status < 500 else 2].inc()
        observations.inc(rows)
        seconds_histogram.observe(seconds)

    return count


def _seconds_per_request(count: Count) -> float:
    start = time.perf_counter()
    for _ in range(_REQUESTS):
        count(200, 1, 0.0001)
    return (time.perf_counter() - start) / _REQUESTS


if __name__ == "__main__":
    main()
