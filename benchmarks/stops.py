"""A short training that is asked to stop at random instants of its life, from its first line to its last.

python -m benchmarks.stops [STOPS] [SIGNAL] [group], some fifteen minutes for 40 on 2 cores. With `group` the signal
goes to the whole process group, as `timeout` and a terminal that closes send it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos import ROOT, read_rows

JOB = [
    *("train", "--preset", "reacher", "rl.training.config.seed=1", "rl.training.stop.training_iteration=6"),
    *("rl.training.config.train_batch_size=8192", "rl.training.checkpoint_freq=2"),
    "rl.training.config.min_time_s_per_iteration=0.5",
]
LONGEST_WAIT_S = 90.0


@dataclass
class Stop:
    """One stop.

    Attributes:
        after_s: Seconds after the start.
        code: Exit code; None for a job that had to be killed.
        took_s: Seconds from the signal to the end.
        iterations: That metrics.jsonl has.
        has_model: Whether the model directory is whole.
        said: The last line on stderr or, where it is the summary's, why it ended.
    """

    after_s: float
    code: int | None
    took_s: float
    iterations: int
    has_model: bool
    said: str


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts the job in a process group of its own."""
    command = [sys.executable, "-m", "runtime.cli", *JOB, "--out", str(out)]
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, process_group=0)


def stop_once(folder: Path, after_s: float, number: signal.Signals, *, of_group: bool) -> Stop:
    """Runs the job, signals it, and waits for its end."""
    out, log = folder / "results", folder / "log.txt"
    process = start(out, log)
    begun = time.monotonic()
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        (os.killpg if of_group else os.kill)(process.pid, number)
    signaled = time.monotonic()
    try:
        code: int | None = process.wait(LONGEST_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = None
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(("smrl: ", "  ended"))]
    has_model = (out / "model" / "manifest.json").exists()
    last = said[-1].split("because")[-1].strip() if said else ""
    return Stop(signaled - begun, code, time.monotonic() - signaled, len(read_rows(out)), has_model, last)


def main(stops: int, number: signal.Signals, *, of_group: bool) -> None:
    """Stops the job at that many instants, spread over its length, and prints the table."""
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("cold", "whole"):
            folder = Path(scratch, name)
            folder.mkdir()
            length_s = stop_once(folder, 3600.0, number, of_group=of_group).after_s
        print(f"The job lasts {length_s:.1f} s when it is left alone.\n")
        print(
            "| stop | after s | exit code | s to the end | iterations | model | said |\n|--:|--:|--:|--:|--:|---|---|"
        )
        found = []
        for count in range(1, stops + 1):
            folder = Path(scratch, str(count))
            folder.mkdir()
            one = stop_once(folder, dice.uniform(0.0, length_s), number, of_group=of_group)
            found.append(one)
            print(
                f"| {count} | {one.after_s:.1f} | {'killed' if one.code is None else one.code} | {one.took_s:.1f} | "
                f"{one.iterations} | {'yes' if one.has_model else 'no'} | {one.said} |",
                flush=True,
            )
        good = sum(one.code == 0 for one in found)
        longest_s = max(one.took_s for one in found)
        print(f"\n{stops} of {number.name}: {good} with exit code 0; at most {longest_s:.1f} s from signal to end.")


if __name__ == "__main__":
    words = sys.argv[1:]
    counts = [int(word) for word in words if word.isdigit()]
    names = [signal.Signals[word] for word in words if word.startswith("SIG")]
    main(counts[0] if counts else 40, names[0] if names else signal.SIGTERM, of_group="group" in words)
