"""DeepRacer measured: steps a second with and without pictures, where an update's time goes, and training to laps.

Run: .venv/bin/python -m benchmarks.deepracer [PART …], into benchmarks/deepracer.md. Parts: `steps`, `update`, `laps`,
`race`, `race=FOLDER` (with two of the community's tracks, from a folder of their `.npy` files), `dynamics`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core is what is measured; training sets its own threads

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.result_page import write_sections
from envs.deepracer.race import KNOWN_DYNAMICS
from envs.deepracer.racing import Racing, read_options

_PAGE = Path(__file__).with_suffix(".md")
_ROOT = _PAGE.parent.parent
_REAL_TIME = 15  # pictures a second of the simulator in the cloud, at best
_BATCH = 8
_SECONDS = 2.0


def _per_second(step: Callable[[], int]) -> float:
    """Car steps a second of CPU time, the median of five rounds; what ran before counts as warm-up."""
    step()
    rates = []
    for _ in range(5):
        count = 0
        started = time.process_time()
        while time.process_time() - started < _SECONDS / 5:
            count += step()
        rates.append(count / (time.process_time() - started))
    return float(np.median(rates))


def measure_steps() -> list[str]:
    """Rows of what a batch of cars does in a second of one core."""
    rows = []
    for name, options, watches in (
        ("car, track and rules alone", {}, False),
        ("the same, a reward function of the user's", {"reward_function": lambda params: params["progress"]}, False),
        ("with the camera", {}, True),
        ("with the camera and 6 boxes", {"number_of_obstacles": 6, "race_type": "OBJECT_AVOIDANCE"}, True),
        ("with the camera and 6 bot cars", {"number_of_bot_cars": 6, "race_type": "HEAD_TO_BOT"}, True),
    ):
        rate = _measure(options, watches=watches)
        rows.append(f"| {name} | {rate:,.0f} | {rate / _REAL_TIME:,.0f} |")
        print(rows[-1], flush=True)
    return [
        f"{_BATCH} cars at once on reinvent_base, steps a second of one core's CPU time; real time is {_REAL_TIME} a "
        "second, which the simulator in the cloud reached at best.",
        "",
        "| | steps/s | times real time |",
        "|---|---|---|",
        *rows,
    ]


def _measure(options: dict[str, Any], *, watches: bool) -> float:
    racing = Racing(read_options(**options), worlds=_BATCH, seed=0)
    simulation = racing.simulation
    for world in range(_BATCH):
        racing.restart(world)
    rng = np.random.default_rng(0)
    actions = rng.integers(5, size=(512, _BATCH))
    number = 0

    def step() -> int:
        nonlocal number
        number += 1
        racing.step(actions[number % 512])
        if simulation.has_ended.any():
            for world in np.flatnonzero(simulation.has_ended).tolist():
                racing.restart(world)
        if watches:
            racing.observe()
        return _BATCH

    return _per_second(step)


def measure_update() -> list[str]:
    """Measures the time of each part of a minibatch update, with and without each optimization."""
    rows = []
    threads = sorted({1, os.cpu_count() or 1})
    pictures = torch.randint(0, 255, (64, 120, 160, 1), dtype=torch.uint8)
    for count in threads:
        torch.set_num_threads(count)
        for name, dtype, layout in (
            ("float32", None, torch.contiguous_format),
            ("float32, channels last", None, torch.channels_last),
            ("bfloat16", torch.bfloat16, torch.contiguous_format),
            ("bfloat16, channels last (ours)", torch.bfloat16, torch.channels_last),
        ):
            rate = _measure_network(pictures, dtype, layout)
            rows.append(f"| {count} | {name} | {rate:,.0f} |")
            print(rows[-1], flush=True)
    return [
        "Pictures a second through both networks forward, backward and Adam; DEEP_CONVOLUTIONAL_NETWORK_SHALLOW, "
        "minibatches of 64, wall time, median of 15.",
        "",
        "| threads | arithmetic | pictures/s |",
        "|---|---|---|",
        *rows,
    ]


def _measure_network(pictures: torch.Tensor, dtype: torch.dtype | None, layout: torch.memory_format) -> float:
    def network(outputs: int) -> nn.Sequential:
        layers = (
            nn.Conv2d(1, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        )
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(11264, 512), nn.ReLU(), nn.Linear(512, outputs))
        return net.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]  # missing in torch's types

    torch.manual_seed(0)
    networks = [network(5), network(1)]
    adam = torch.optim.Adam([p for net in networks for p in net.parameters()], lr=3e-4, fused=True)
    seconds = []
    for _ in range(18):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            x = (pictures.permute(0, 3, 1, 2).to(dtype or torch.float32) / 255).contiguous(memory_format=layout)
            loss = sum(net(x).float().pow(2).mean() for net in networks)
        adam.zero_grad(set_to_none=True)
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        seconds.append(time.perf_counter() - started)
    return len(pictures) / float(np.median(seconds[3:]))


def _smrl(*words: str) -> float:
    """Runs a command as a user types it; its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "runtime.cli", *words]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=_ROOT, env=environment)
    return time.perf_counter() - started


# Cars that differ as the original's do, whose lap times spread by 0.3 s; without, one lap would count several times.
_SPREAD = ('dynamics={"noise": 0.025}', "number_of_trials=20")


def _evaluate(results: Path, *words: str) -> tuple[int, list[float], float | None]:
    """Trials of `smrl evaluate`, the seconds of those that completed the lap, and those that the track allows."""
    with tempfile.TemporaryDirectory() as out:
        _smrl("evaluate", str(results), "--out", out, *words)
        trials = json.loads((Path(out) / "evaluation_metrics.json").read_text())["metrics"]
        (racer,) = json.loads((Path(out) / "evaluation.json").read_text())["racers"]
    complete = [
        trial["elapsed_time_in_milliseconds"] / 1000 for trial in trials if trial["completion_percentage"] == 100
    ]
    return len(trials), complete, racer["lap_bound_s"]


def measure_laps(seeds: int = 3) -> list[str]:
    """`smrl train --preset deepracer`, then laps."""
    rows = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(f"| {seed} | {_train_to_laps('deepracer', seed, Path(folder))}")
        print(rows[-1], flush=True)
    return [
        "The preset `deepracer`: reinvent_base, five steering angles at 1 m/s, SHALLOW network, center-line reward. "
        "*First* is the first in-training evaluation with five complete laps, *end* is where the preset stops; *in "
        "all* is with start-up, exports and video. *Laps* are those of `smrl evaluate` with a `noise` of 0.025, "
        "which spreads lap times as the original simulator's; *bound* is the least time that the track allows a car "
        "without noise.",
        _processor(),
        "",
        f"| seed | {_LAP_COLUMNS}",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


_LAP_COLUMNS = (
    "first (min) | steps | end (min) | steps | in all (min) | mean return | laps | lap time (s) | bound (s) |"
)


def _train_to_laps(preset: str, seed: int, out: Path, *settings: str) -> str:
    """Trains a preset with a seed, evaluates it, and returns the cells of `_LAP_COLUMNS`."""
    took = _smrl("train", "--preset", preset, "--out", str(out), f"rl.training.config.seed={seed}", *settings)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first = next((row for row in metrics if row["evaluation_progress_mean"] == 100), metrics[-1])
    return (
        f"{first['time_total_s'] / 60:.1f} | {first['timesteps_total']:,} | "
        f"{metrics[-1]['time_total_s'] / 60:.1f} | {metrics[-1]['timesteps_total']:,} | {took / 60:.1f} | "
        f"{metrics[-1]['episode_reward_mean']:.0f} | {_drive(out)} |"
    )


def _drive(results: Path, *words: str) -> str:
    """Evaluates a policy, and returns three cells: its complete laps, their mean seconds, and the least possible."""
    spread = _SPREAD if not any(word.startswith("dynamics=") for word in words) else ()
    trials, complete, _ = _evaluate(results, *words, *spread)
    *_, bound = _evaluate(results, *words, "number_of_trials=1")  # of the car without noise
    cells = (f"{np.mean(complete):.2f}" if complete else "–", "–" if bound is None else f"{bound:.2f}")
    return f"{len(complete)} of {trials} | {' | '.join(cells)}"


def measure_race(tracks: str | None = None) -> list[str]:
    """The racing presets on their track and on published ones, then on what they were not trained on.

    Args:
        tracks: Folder of the community's `.npy` files; without it, no published track is raced.
    """
    rows, elsewhere = [], []
    published = [] if tracks is None else [f"track={name}" for name in _PUBLISHED]
    for preset, seed, track in (
        *(("deepracer-race", seed, "track=reinvent_base") for seed in range(3)),
        ("deepracer-race-continuous", 0, "track=reinvent_base"),
        ("deepracer-race", 0, "track=all"),
        *(("deepracer-race", 0, track) for track in published),
    ):
        with tempfile.TemporaryDirectory() as folder:
            out, files = Path(folder), () if tracks is None else (f"tracks={tracks}",)
            settings = [f"rl.training.config.env_config.{word}" for word in (track, *files)]
            rows.append(f"| `{preset}` | `{track}` | {seed} | {_train_to_laps(preset, seed, out, *settings)}")
            print(rows[-1], flush=True)
            if seed == 0 and track not in published:
                for words in (*_ELSEWHERE, *published):
                    elsewhere.append(f"| `{preset}` | `{track}` | `{words}` | {_drive(out, words, *files)} |")
                    print(elsewhere[-1], flush=True)
    return [
        "The presets `deepracer-race` (21 actions up to 4 m/s) and `deepracer-race-continuous`: SHALLOW network, a "
        "reward of the meters gained in a step. Columns as above.",
        _processor(),
        "",
        f"| preset | track | seed | {_LAP_COLUMNS}",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Seed 0 elsewhere, by `smrl evaluate` with these settings:",
        "",
        "| preset | trained on | settings | laps | lap time (s) | bound (s) |",
        "|---|---|---|---|---|---|",
        *elsewhere,
    ]


_ELSEWHERE = ("track=reinvent_base", "reverse_dir=true", "track=oval", "track=reInvent2019_track", "dynamics=gazebo-6")
_PUBLISHED = ("Spain_track",)


def measure_dynamics(steps: int = 6_000) -> list[str]:
    """The preset trained under each of the known dynamics for some steps, and evaluated under each."""
    rows = []
    for trained in KNOWN_DYNAMICS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "results"
            settings = ("seed=0", f"rl.training.stop.timesteps_total={steps}")
            config = f"rl.training.config.env_config.dynamics={trained}"
            _smrl("train", "--preset", "deepracer", "--out", str(out), *settings, config)
            cells = []
            for evaluated in KNOWN_DYNAMICS:
                trials, complete, _ = _evaluate(out, f"dynamics={evaluated}")
                cells.append(f"{len(complete)} of {trials}" + (f", {np.mean(complete):.2f} s" if complete else ""))
        rows.append(f"| `{trained}` | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    names = " | ".join(f"on `{name}`" for name in KNOWN_DYNAMICS)
    return [
        f"The preset `deepracer`, trained for {steps:,} steps with seed 0 under each `dynamics` and evaluated under "
        "each: completed laps, and their mean time.",
        "",
        f"| trained under | {names} |",
        "|---" * (len(KNOWN_DYNAMICS) + 1) + "|",
        *rows,
    ]


def _processor() -> str:
    """The processor, and the instructions that the update's speed depends on."""
    info = Path("/proc/cpuinfo").read_text()
    name = next(line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name"))
    known = [flag.upper() for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in info]
    return f"Processor: {name}, {os.cpu_count()} CPUs, {', '.join(known)}."


_TITLES = {
    "steps": "Steps a second",
    "update": "Where an update's time goes",
    "laps": "From nothing to five laps",
    "race": "Races",
    "dynamics": "Dynamics of training and evaluation",
}
_PARTS: dict[str, Callable[[], list[str]]] = {
    "steps": measure_steps,
    "update": measure_update,
    "laps": measure_laps,
    "race": measure_race,
    "dynamics": measure_dynamics,
}


def main(words: list[str]) -> None:
    """Measures some parts and rewrites them in the page; the others stay as they were measured."""
    head = (
        "# DeepRacer, measured\n\n"
        f"`python -m benchmarks.deepracer` on {os.cpu_count()} CPUs ({platform.machine()}), "
        f"Python {platform.python_version()}, shared with other work."
    )
    for word in words or list(_PARTS):
        name, _, folder = word.partition("=")
        rows = measure_race(folder) if folder else _PARTS[name]()
        write_sections(_PAGE, head, _TITLES.values(), {_TITLES[name]: "\n".join(rows)})


if __name__ == "__main__":
    main(sys.argv[1:])
