"""Measures each preset's seeds, steps and seconds to its goal; writes benchmarks/presets.md.

Run: .venv/bin/python benchmarks/presets.py [PRESET:SEEDS[:SECONDS] …]; without words, all presets as below; cartpole,
reacher and hopper are in `make bench`. A preset's
`expected_return` and `minutes` are this table's. Goals are means over 100 episodes of the exploring policy.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Preset, seeds, and seconds after which a run is cut (0: only its own stop criteria).
_PLAN = (
    ("inverted-pendulum", 2, 0),
    *(("inverted-double-pendulum", 1, 0), ("walker2d", 1, 0), ("ant", 1, 0), ("halfcheetah", 1, 0)),
    *(("inverted-pendulum-swingup", 1, 300), ("humanoid", 1, 600)),
)


def main(words: list[str]) -> None:
    """Trains, and rewrites the table after every run."""
    plan = [_parse(word) for word in words] or list(_PLAN)
    rows = []
    for preset, seeds, seconds in plan:
        for seed in range(seeds):
            rows.append(_row(preset, seed, seconds))
            print(rows[-1], flush=True)
            _write(rows)


def _parse(word: str) -> tuple[str, int, int]:
    name, *numbers = word.split(":")
    seeds, seconds = (*(int(number) for number in numbers), *(1, 0)[len(numbers) :])
    return name, seeds, seconds


def _row(preset: str, seed: int, seconds: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "runtime.cli", "train", "--preset", preset, "--out", folder]
        command += [f"rl.training.config.seed={seed}"]
        if seconds:
            command += [f"rl.training.stop.time_total_s={seconds}"]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    last: dict[str, Any] = json.loads(lines[-1])
    steps, took = last["timesteps_total"], last["time_total_s"]
    mean = last["episode_reward_mean"]
    return f"| {preset} | {seed} | {mean:,.1f} | {steps:,} | {took:,.0f} | {steps / took:,.0f} |"


def _write(rows: list[str]) -> None:
    head = [
        "# What the presets reach",
        "",
        f"`python benchmarks/presets.py` on {os.cpu_count()} CPUs ({platform.machine()}), shared with other work while"
        " measured; videos and checkpoints as by default. Each run ends at its preset's goal, or when cut.",
        "",
        "| preset | seed | mean return | steps | seconds | steps/s |",
        "|---|---|---|---|---|---|",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
