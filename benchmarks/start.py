"""Measures the fixed cost of a job: seconds and CPU seconds that are not training.

python -m benchmarks.start [--before CHECKOUT] [--runs N] rewrites benchmarks/start.md, in about half an hour on 2
cores. With --before, every command also runs in a checkout of another commit, in turn with this one's, by the same
packages. The CPU seconds are those of all processes of a command, Ray's included.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.namespaces import hosts, why_not

ROOT = Path(__file__).resolve().parent.parent
_PAGE = Path(__file__).with_suffix(".md")
_RUN = "import sys; from runtime import cli; getattr(cli, 'command', lambda: sys.exit(cli.main()))()"
_REACHER = ["train", "--preset", "reacher", "rl.training.config.seed=1"]
_SHORT = [*_REACHER, "rl.training.stop.training_iteration=2"]
_TUNE_RUNS = 3
_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
_FLOORS = {
    "Python alone": "pass",
    "`import torch`": "import torch",
    "`import torch, ray.rllib.algorithms.ppo`": "import torch, ray.rllib.algorithms.ppo",
    "the same and `ray.init()`": (
        "import torch, ray, ray.rllib.algorithms.ppo; ray.init(include_dashboard=False, log_to_driver=False)"
    ),
}
# Functions of a training, in the order of their calls; those of one row do the same in different versions.
_PHASES = {
    "Ray's start": ["runtime.cluster.session:_init"],
    "opening the environment": ["runtime.families.plain.family:_read_spaces"],
    "building RLlib's algorithm": ["runtime.rllib.loop:build_algorithm"],
    "two iterations of training": ["runtime.rllib.loop:Training._iterate"],
    "checkpoint": ["runtime.rllib.loop:Training._save"],
    "export, beside the video or before it": [
        "runtime.jobs.training:export_or_note",
        "runtime.jobs.exporting:Exporting.finish",
    ],
    "video": ["runtime.rllib.loop:Training._record_video"],
    "learning curve": ["runtime.ppo.algorithm:_plot"],
    "report": ["runtime.report.report_command:finish"],
    "Ray's end": ["runtime.cluster.session:_shut_down"],
}


@dataclass(frozen=True)
class Cost:
    """The cost of a command.

    Attributes:
        wall_s: Seconds from its start to its end.
        cpu_s: CPU seconds of all its processes, user and system.
        output: Its standard output.
    """

    wall_s: float
    cpu_s: float
    output: str = ""


def run(words: list[str], checkout: Path) -> Cost:
    """Runs a program to its end, and waits for all processes that it has started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = _environment(checkout)
    done = subprocess.run([sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True)
    wall_s = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    _wait_for_all()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall_s, cpu_s, done.stdout)


def _environment(checkout: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}


def _wait_for_all() -> None:
    """Waits for processes that have outlived the command that started them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def smrl(words: list[str], checkout: Path) -> Cost:
    """Runs a command of a checkout."""
    return run(["-c", _RUN, *words], checkout)


def in_turn(checkouts: list[Path], runs: int, measure: Callable[[Path], Cost], *, warm_ups: int = 1) -> list[Cost]:
    """Measures each checkout a number of times, in turn, after runs that do not count; returns the medians."""
    found: list[list[Cost]] = [[] for _ in checkouts]
    for number in range(warm_ups + runs):
        for costs, checkout in zip(found, checkouts, strict=True):
            cost = measure(checkout)
            if number >= warm_ups:
                costs.append(cost)
    return [_median(costs) for costs in found]


def _median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(cost.wall_s for cost in costs), statistics.median(cost.cpu_s for cost in costs))


@contextlib.contextmanager
def results_folder() -> Iterator[str]:
    """Makes a folder for a command's results."""
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        yield f"{folder}/out"


def short_training(checkout: Path) -> Cost:
    """A training of two iterations, without the seconds of its iterations."""
    with results_folder() as out:
        cost = smrl([*_SHORT, "--out", out], checkout)
        rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return Cost(cost.wall_s - rows[-1]["time_total_s"], cost.cpu_s)


def first_step(checkout: Path) -> Cost:
    """From the command to the first environment step: to the first line of metrics, without its own seconds."""
    with results_folder() as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, *_SHORT, "--out", out, "rl.training.export=false", "rl.training.video_freq=0"],
            cwd=checkout,
            env=_environment(checkout),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        first_s = 0.0
        for line in process.stdout:
            found = re.search(r"training_iteration: 1 .*time_total_s: ([\d.]+)", line)
            if found:
                first_s = time.perf_counter() - started - float(found[1])
        process.wait()
        _wait_for_all()
    return Cost(first_s, 0.0)


def tuning(checkout: Path) -> Cost:
    """The example of a tuning job."""
    with results_folder() as out:
        return smrl(["tune", "examples/tune-reacher.yaml", "--out", out], checkout)


def worker_host() -> float:
    """Seconds from the start of a worker node, whose head node listens already, until the head node counts it."""
    with tempfile.TemporaryDirectory() as folder, hosts(Path(folder), 2) as made:
        made.write({"preset": "reacher", "sagemaker_program": "train.py", "rl.training.stop.training_iteration": 1})
        head, worker = made.hosts
        head.start("train")
        made.wait_for(lambda: "waiting for" in head.log)
        started = time.perf_counter()
        worker.start("train")
        made.wait_for(lambda: "2 hosts, " in head.log)
        seconds = time.perf_counter() - started
        assert head.wait() == 0, made.story()
    return seconds


def profile(checkout: Path) -> dict[str, tuple[float, float]]:
    """Runs a training of two iterations with its functions timed; returns wall and CPU seconds of the main process."""
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        found = Path(folder, "profile.json")
        script = str(Path(__file__).with_name("start_profile.py"))
        words = ["-P", script, str(time.time()), str(found), json.dumps(_PHASES), *_SHORT, "--out", f"{folder}/out"]
        cost = run(words, checkout)
        phases = {name: tuple(seconds) for name, seconds in json.loads(found.read_text()).items()}
    whole_s, main_cpu_s = phases.pop("main")
    phases["Python's end"] = (cost.wall_s - whole_s, 0.0)
    known = [sum(seconds[part] for seconds in phases.values()) for part in (0, 1)]
    phases["all else"] = (cost.wall_s - known[0], main_cpu_s - known[1])
    phases["the whole command"] = (cost.wall_s, cost.cpu_s)
    return phases


def table(title: list[str], rows: list[list[str]]) -> str:
    """Makes a Markdown table whose first column is text, and whose others are numbers."""
    lines = [title, ["---", *("--:" for _ in title[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure_goals(checkouts: list[Path], runs: int) -> str:
    """The table of goals."""
    rows = []

    def add(what: str, found: list[float], goal: str, digits: int = 1) -> None:
        rows.append([what, *(f"{seconds:.{digits}f}" for seconds in found), goal])
        print(rows[-1], flush=True)

    add("command to first environment step, s", [c.wall_s for c in in_turn(checkouts, runs, first_step)], "3.5")
    job = in_turn(checkouts, runs, short_training)
    add("reacher job of two iterations, s without their seconds", [cost.wall_s for cost in job], "7")
    add("the same, CPU seconds with the training", [cost.cpu_s for cost in job], "9")
    found = in_turn(checkouts, _TUNE_RUNS, tuning, warm_ups=0)
    add(f"`smrl tune examples/tune-reacher.yaml`, s ({_TUNE_RUNS} runs)", [cost.wall_s for cost in found], "25")
    with results_folder() as out:
        smrl([*_SHORT, "--out", out], checkouts[-1])
        words = ["evaluate", out, "evaluate_episodes=1"]
        add(
            "`smrl evaluate` of one episode, s",
            [cost.wall_s for cost in in_turn(checkouts, runs, lambda checkout: smrl(words, checkout))],
            "4",
        )
    help_ = in_turn(checkouts, 3 * runs, lambda checkout: smrl(["--help"], checkout))
    add("`smrl --help`, s", [cost.wall_s for cost in help_], "0.05", 3)
    if not why_not():
        seconds = statistics.median(worker_host() for _ in range(3))
        add("a worker host ready, s (3 runs)", [*([float("nan")] * (len(checkouts) - 1)), seconds], "3")
    return table(["", *_columns(checkouts), "goal"], rows).replace("nan", "–")


def measure_floors(runs: int) -> str:
    """What the libraries take without smrl."""
    rows = []
    for what, program in _FLOORS.items():
        (cost,) = in_turn([ROOT], runs, lambda checkout, program=program: run(["-c", program], checkout))  # type: ignore[misc]
        rows.append([what, f"{cost.wall_s:.2f}", f"{cost.cpu_s:.2f}"])
        print(rows[-1], flush=True)
    return table(["", "s", "CPU s"], rows)


def measure_commands(checkouts: list[Path], runs: int) -> str:
    """CPU seconds of commands."""
    rows = []
    with results_folder() as out:
        smrl([*_SHORT, "--out", out], checkouts[-1])
        rows_in = Path(out, "rows.jsonl")
        rows_in.write_text(json.dumps([0.0] * 9) + "\n")
        commands = {
            "smrl --help": ["--help"],
            "smrl presets": ["presets"],
            "smrl presets show hopper": ["presets", "show", "hopper"],
            "smrl tracks reinvent_base": ["tracks", "reinvent_base"],
            "smrl report": ["report", out],
            "smrl transform": ["transform", out, "--input", str(rows_in), "--output", f"{out}/transformed"],
            "smrl collect --env CartPole-v1": ["collect", "--env", "CartPole-v1", "--out", f"{out}/log.csv"],
            "smrl export": ["export", out],
            "smrl evaluate": ["evaluate", out, "evaluate_episodes=1"],
        }
        for name, words in commands.items():
            costs = in_turn(checkouts, runs, lambda checkout, words=words: smrl(words, checkout))  # type: ignore[misc]
            rows.append([f"`{name}`", *(f"{cost.cpu_s:.2f}" for cost in costs)])
            print(rows[-1], flush=True)
    costs = in_turn(checkouts, runs, short_training)
    rows.append(["`smrl train`, reacher, two iterations", *(f"{cost.cpu_s:.2f}" for cost in costs)])
    return table(["CPU s", *_columns(checkouts)], rows)


def measure_profile(checkouts: list[Path], runs: int) -> str:
    """The parts of a training of two iterations."""
    profiles: list[list[dict[str, tuple[float, float]]]] = [[] for _ in checkouts]
    for number in range(runs + 1):
        for found, checkout in zip(profiles, checkouts, strict=True):
            phases = profile(checkout)
            if number:
                found.append(phases)
    rows = []
    for name in ["imports", *_PHASES, "Python's end", "all else", "the whole command"]:
        cells = []
        for found in profiles:
            for part in (0, 1):
                seconds = [phases[name][part] for phases in found if name in phases]
                cells.append(f"{statistics.median(seconds):.2f}" if seconds else "–")
        rows.append([name, *cells])
    columns = [f"{name}{unit}" for name in _columns(checkouts) for unit in (", s", ", CPU s")]
    return table(["part", *columns], rows)


def _columns(checkouts: list[Path]) -> list[str]:
    return ["before", "now"][-len(checkouts) :]


def main() -> None:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--runs", type=int, default=7, help="runs of each command")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # processes that outlive a command's are ours to wait for
    checkouts = [ROOT] if options.before is None else [options.before.resolve(), ROOT]
    commits = [_describe(checkout) for checkout in checkouts]
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    compared = f" `before` is {commits[0]}, run in turn with this one." if len(commits) > 1 else ""
    machine = platform.machine().replace("_", "-")
    text = f"""# The fixed cost of a job

`python -m benchmarks.start`: medians of {options.runs} runs after one that does not count.{compared} The CPU seconds
are those of all processes of a command, Ray's included.

Machine: {len(os.sched_getaffinity(0))} shared {machine} cores, {model[1] if model else "unknown"}.

## Goals

{measure_goals(checkouts, options.runs)}

## The libraries alone

{measure_floors(options.runs)}

## A training of two iterations

The reacher preset with video and exports. CPU seconds by part are the main process's; the last row's are of all
processes. Parts with "–" do not happen.

{measure_profile(checkouts, options.runs)}

## Commands

{measure_commands(checkouts, options.runs)}
"""
    _PAGE.write_text(text, encoding="utf-8")


def _describe(checkout: Path) -> str:
    git = shutil.which("git")
    assert git is not None
    said = subprocess.run([git, "describe", "--always"], cwd=checkout, check=True, capture_output=True, text=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main()
