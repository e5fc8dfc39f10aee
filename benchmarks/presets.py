"""Trains presets to their goals and evaluates the policies; writes benchmarks/presets.md, .json and .png.

Run: .venv/bin/python -m benchmarks.presets [PRESET[:SEEDS[:FIRST_SEED]] …]; without words all of them, in two hours.
Presets that are not named keep their rows, and so do the seeds below FIRST_SEED.
cartpole, reacher and hopper are also in `make bench`, with their peers.
A preset's `expected_return` and `minutes` are this table's; seconds are those of the whole command, with its video,
checkpoints and exports, on this machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import yaml

from envs.roboschool.registration import ROBOSCHOOL_IDS

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = Path(__file__).with_suffix(".md")
_RECORD = Path(__file__).with_suffix(".json")
_PICTURE = Path(__file__).with_suffix(".png")
_ORDER = (
    *("reacher", "inverted-pendulum", "inverted-pendulum-swingup", "inverted-double-pendulum", "hopper", "ant"),
    *("halfcheetah", "walker2d", "humanoid", "swingup-sac", "pendulum-sac", "cartpole-dqn"),
)
# Return by the same algorithm in benchmark.md of DLR-RM/rl-baselines3-zoo, after 20,000 and 50,000 steps.
_PUBLISHED = {"pendulum-sac": -156.995, "cartpole-dqn": 500.0}
_SEEDS = {"humanoid": 1}
_EPISODES = 100
_POINTS = 100  # of each learning curve


def main(words: list[str]) -> None:
    """Trains, and rewrites the page after every run."""
    record = json.loads(_RECORD.read_text(encoding="utf-8")) if _RECORD.exists() else {}
    for word in words or _ORDER:
        preset, count, first_seed = (*word.split(":"), "", "")[:3]
        first = int(first_seed or 0)
        runs = [run for run in record.get(preset, []) if run["seed"] < first]
        for seed in range(first, first + int(count or _SEEDS.get(preset, 3))):
            runs.append(_measure(preset, seed))
            print(_row(preset, runs[-1]), flush=True)
            record[preset] = runs
            _RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            _write(record)


def _measure(preset: str, seed: int) -> dict[str, Any]:
    smrl = [sys.executable, "-m", "runtime.cli"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        train = [*smrl, "train", "--preset", preset, "--out", folder, f"rl.training.config.seed={seed}"]
        subprocess.run(train, check=True, capture_output=True, cwd=_ROOT)
        seconds = time.monotonic() - began
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        evaluate = [*smrl, "evaluate", folder, f"evaluate_episodes={_EPISODES}", "seed=1000"]
        subprocess.run(evaluate, check=True, capture_output=True, cwd=_ROOT)
        evaluation = json.loads((Path(folder) / "evaluation" / "evaluation.json").read_text())
    rows = [row for row in map(json.loads, lines) if "episode_reward_mean" in row]  # not before the first episode's end
    kept = np.unique(np.linspace(0, len(rows) - 1, _POINTS).round().astype(int))
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "steps": rows[-1]["timesteps_total"],
        "training_return": round(rows[-1]["episode_reward_mean"], 1),
        "evaluated_return": round(evaluation["mean_reward"], 1),
        "curve": [[round(rows[i]["time_total_s"], 1), round(rows[i]["episode_reward_mean"], 1)] for i in kept],
    }


def _read_training(preset: str) -> dict[str, Any]:
    described = yaml.safe_load((_ROOT / "presets" / f"{preset}.yaml").read_text(encoding="utf-8"))
    training: dict[str, Any] = described["training"]
    return training


def _threshold(preset: str) -> float:
    if preset in _PUBLISHED:
        return _PUBLISHED[preset]
    threshold = ROBOSCHOOL_IDS[_read_training(preset)["env"]].reward_threshold
    assert threshold is not None
    return threshold


def _row(preset: str, run: dict[str, Any]) -> str:
    cells = [preset, f"{_threshold(preset):,.0f}", str(run["seed"]), f"{run['evaluated_return']:,.1f}"]
    cells += [f"{run['training_return']:,.1f}", f"{run['steps']:,}", f"{run['seconds']:,.0f}"]
    return f"| {' | '.join(cells)} | {run['steps'] / run['seconds']:,.0f} |"


def _write(record: dict[str, list[dict[str, Any]]]) -> None:
    known = [preset for preset in _ORDER if preset in record]
    lines = [
        "# What the presets reach",
        "",
        f"`python -m benchmarks.presets` on {os.cpu_count()} CPUs ({platform.machine()}). Each run is the command `smrl"
        f" train --preset PRESET` until its own goal, then {_EPISODES} episodes of `smrl evaluate`. Seconds are of"
        " the whole training command. The threshold is Roboschool's; that of "
        "pendulum-sac and cartpole-dqn is the return that Stable-Baselines3's zoo publishes by the same algorithm,"
        " after 20,000 and 50,000 steps.",
        "",
        "| preset | threshold | seed | evaluated return | return in training | steps | seconds | steps/s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(preset, run) for preset in known for run in record[preset]),
        "",
        f"![Return in training over time, one line a seed]({_PICTURE.name})",
    ]
    _PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw({preset: record[preset] for preset in known})


def _draw(record: dict[str, list[dict[str, Any]]]) -> None:
    columns = 3
    rows = -(-len(record) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(record) :]:
        axes.remove()
    for axes, (preset, runs) in zip(grid.flat, record.items(), strict=False):
        for run in runs:
            seconds, returns = zip(*run["curve"], strict=True)
            axes.plot(np.array(seconds) / 60, returns, linewidth=1.2, label=f"seed {run['seed']}")
        horizon = _read_training(preset)["config"].get("training_horizon")
        if horizon is None:  # the threshold is for whole episodes
            axes.axhline(_threshold(preset), color="gray", linewidth=0.8, linestyle="--")
        axes.set_title(preset if horizon is None else f"{preset}, episodes of {horizon} steps", fontsize=10)
        axes.set_xlabel("minutes", fontsize=8)
        axes.tick_params(labelsize=8)
    grid.flat[0].set_ylabel("mean return of 100 episodes", fontsize=8)
    figure.savefig(_PICTURE, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
