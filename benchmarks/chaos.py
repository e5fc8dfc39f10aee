"""A training that is killed 50 times at random instants, against the same training left alone.

python -m benchmarks.chaos [KILLS], about ten minutes on 2 cores. A checkpoint is written every iteration. Half of
the kills end every process of the job at once, as when a machine is taken away; the others the main process alone,
whose children then find out by themselves.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
SMRL = Path(sys.executable).parent / "smrl"
SEED = 1
LONGEST_S = 14.0
ITERATIONS = 60
EPISODES = 200
JOB = [
    *("train", "--preset", "reacher", f"rl.training.config.seed={SEED}", "rl.training.checkpoint_freq=1"),
    *("rl.training.config.train_batch_size=32768", "rl.training.config.minibatch_size=1024"),
    *(f"rl.training.stop.training_iteration={ITERATIONS}", "rl.training.stop.episode_reward_mean=1000"),
    "rl.training.stop.timesteps_total=1000000000",
    *("rl.training.video_freq=0", "rl.training.export=false"),
]


@dataclass
class Kill:
    """One kill, and what the next start found.

    Attributes:
        after_s: Seconds after the start.
        whole: Whether every process was killed.
        at: What the job was doing.
        reached: Iterations that it had reported.
        resumed: Iteration that the next start resumed from.
        steps: Environment steps of that.
        leftover: Whether a half-written checkpoint lay there.
    """

    after_s: float
    whole: bool
    at: str
    reached: int
    resumed: int = 0
    steps: int = 0
    leftover: bool = False


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl, without a last line that a kill has cut off."""
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts the job."""
    with log.open("wb") as file:
        return subprocess.Popen([SMRL, *JOB, "--out", out], cwd=ROOT, stdout=file, stderr=file)


def kill(process: subprocess.Popen[bytes], *, whole: bool) -> None:
    """Ends a job, with all of its processes or without."""
    main = psutil.Process(process.pid)
    children = main.children(recursive=True)
    if whole:
        main.suspend()  # none is to notice another's end
    for one in [main, *(children if whole else [])]:
        one.kill()
    process.wait()


def watch_resume(process: subprocess.Popen[bytes], log: Path, until: float) -> tuple[int, int]:
    """Reads from a start's log the iteration and steps that it resumes from; zeros if it has not logged them yet."""
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"resuming from .*: iteration (\d+), (\d+) steps", log.read_text(errors="replace"))
        if found:
            return int(found[1]), int(found[2])
        time.sleep(0.05)
    return 0, 0


def run_chaos(out: Path, kills: int) -> list[Kill]:
    """Runs the training until it completes, and kills it at random instants."""
    dice = random.Random(0)
    log = out.with_suffix(".log")
    suffered: list[Kill] = []
    while True:
        process = start(out, log)
        begun = time.monotonic()
        is_last = len(suffered) == kills
        after_s = 3600.0 if is_last else dice.uniform(0.0, LONGEST_S)
        resumed, steps = watch_resume(process, log, begun + after_s)
        for before in reversed(suffered):  # a start that was killed before it could say has found the same
            if before.resumed or before.reached == 0:
                break
            before.resumed = resumed
            before.steps = steps
        if is_last:
            assert process.wait() == 0, log.read_text()[-3000:]
            return suffered
        time.sleep(max(0.0, begun + after_s - time.monotonic()))
        assert process.poll() is None, f"it ended before its time: {log.read_text()[-3000:]}"
        half = any(out.glob("checkpoints/.*.writing"))
        rows = read_rows(out)
        at = "starting" if not resumed and suffered and suffered[-1].reached else "writing" if half else "training"
        if not rows:
            at = "starting"
        kill(process, whole=(whole := dice.random() < 0.5))
        rows = read_rows(out)
        suffered.append(Kill(after_s, whole, at, len(rows), leftover=any(out.glob("checkpoints/.*.writing"))))
        check_rows(rows)
        print(f"kill {len(suffered)}: {suffered[-1]}", flush=True)


def check_rows(rows: list[dict[str, Any]]) -> None:
    """Checks that no iteration is repeated or missing, and that no counter decreases."""
    assert [row["training_iteration"] for row in rows] == list(range(1, len(rows) + 1)), rows
    for name in ("timesteps_total", "episodes_total", "time_total_s"):
        values = [row[name] for row in rows]
        assert values == sorted(values), name


def evaluate(out: Path) -> tuple[float, float]:
    """Evaluates the final policy; returns its mean return and the standard error."""
    subprocess.run(
        [SMRL, "evaluate", out, f"evaluate_episodes={EPISODES}", f"seed={SEED}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = json.loads((out / "evaluation" / "evaluation.json").read_text())
    return found["mean_reward"], found["std_reward"] / EPISODES**0.5


def main(kills: int) -> None:
    """Runs both trainings and prints the table."""
    with tempfile.TemporaryDirectory() as scratch:
        alone, killed = Path(scratch, "alone"), Path(scratch, "killed")
        begun = time.monotonic()
        assert start(alone, Path(scratch, "alone.log")).wait() == 0
        alone_s = time.monotonic() - begun
        begun = time.monotonic()
        suffered = run_chaos(killed, kills)
        killed_s = time.monotonic() - begun
        rows = read_rows(killed)
        check_rows(rows)
        print("\n| kill | after s | processes | while | iterations | resumes from | repeated | half checkpoint |")
        print("|--:|--:|---|---|--:|--:|--:|---|")
        for number, one in enumerate(suffered, 1):
            print(
                f"| {number} | {one.after_s:.1f} | {'all' if one.whole else 'main'} | {one.at} | {one.reached} | "
                f"{one.resumed or '-'} | {one.reached - one.resumed} | {'swept' if one.leftover else '-'} |"
            )
        resumes = [one for one in suffered if one.reached]
        print(f"\n{kills} kills, {len(resumes)} of them with iterations to lose; ", end="")
        print(f"{sum(one.reached - one.resumed for one in resumes)} iterations repeated, ", end="")
        print(f"at most {max(one.reached - one.resumed for one in resumes)} a kill.")
        print(f"Rows of metrics.jsonl: {len(rows)} of {ITERATIONS}, each once.\n")
        print(f"| training | seconds | steps | final evaluation, {EPISODES} episodes |\n|---|--:|--:|--:|")
        for name, out, seconds in (("left alone", alone, alone_s), (f"killed {kills} times", killed, killed_s)):
            mean, error = evaluate(out)
            print(f"| {name} | {seconds:.0f} | {read_rows(out)[-1]['timesteps_total']:,} | {mean:.2f} ± {error:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
