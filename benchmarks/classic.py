"""Trains ten of Gymnasium's tasks with the general settings, and with Stable-Baselines3's defaults; writes classic.md.

Run: make bench-classic [TASKS="Pendulum-v1 Taxi-v3"]. Tasks that are not named keep their rows. Both train for the same
number of steps and then play 20 episodes without exploration. Returns are compared, not times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = Path(__file__).with_suffix(".md")
_RECORD = Path(__file__).with_suffix(".json")
_SEEDS = (0, 1, 2)
_EPISODES = 20


class Task(NamedTuple):
    """An environment and how long to train on it."""

    env: str
    steps: int
    arguments: dict[str, Any] = {}  # noqa: RUF012  # never changed


_TASKS = {
    "CartPole-v1": Task("CartPole-v1", 100_000),
    "Acrobot-v1": Task("Acrobot-v1", 100_000),
    "MountainCar-v0": Task("MountainCar-v0", 100_000),
    "MountainCarContinuous-v0": Task("MountainCarContinuous-v0", 100_000),
    "Pendulum-v1": Task("Pendulum-v1", 100_000),
    "LunarLander-v3": Task("LunarLander-v3", 200_000),
    "LunarLander-v3, continuous": Task("LunarLander-v3", 200_000, {"continuous": True}),
    "BipedalWalker-v3": Task("BipedalWalker-v3", 200_000),
    "FrozenLake-v1": Task("FrozenLake-v1", 100_000),
    "Taxi-v3": Task("Taxi-v3", 100_000),
}


def main(words: list[str]) -> None:
    """Measures the tasks that are named, or all, and rewrites the page after each run."""
    record = json.loads(_RECORD.read_text(encoding="utf-8")) if _RECORD.exists() else {}
    for name in words or _TASKS:
        returns: dict[str, list[float]] = {"smrl": [], "sb3": []}
        for seed in _SEEDS:
            for who, train in (("smrl", _train_ours), ("sb3", _train_sb3)):
                returns[who].append(round(train(_TASKS[name], seed), 2))
                print(name, who, seed, returns[who][-1], flush=True)
        record[name] = returns
        _RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _PAGE.write_text(_page(record), encoding="utf-8")


def _train_ours(task: Task, seed: int) -> float:
    smrl = [sys.executable, "-m", "runtime.cli"]
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"rl.training.env={task.env}", f"rl.training.config.env_config={json.dumps(task.arguments)}"]
        settings += [f"rl.training.stop.timesteps_total={task.steps}", f"rl.training.config.seed={seed}"]
        train = [*smrl, "train", "--out", folder, "rl.training.export=false", "rl.training.video_freq=0", *settings]
        subprocess.run(train, check=True, capture_output=True, cwd=_ROOT)
        evaluate = [*smrl, "evaluate", folder, f"evaluate_episodes={_EPISODES}", f"seed={1000 + seed}"]
        subprocess.run(evaluate, check=True, capture_output=True, cwd=_ROOT)
        played = json.loads((Path(folder) / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    return float(played["mean_reward"])


def _train_sb3(task: Task, seed: int) -> float:
    python = _ROOT / ".venv" / "bench" / "bin" / "python"
    script = [str(python), str(_ROOT / "benchmarks" / "ppo_peers" / "classic.py")]
    words = [task.env, json.dumps(task.arguments), str(task.steps), str(seed), str(_EPISODES)]
    done = subprocess.run([*script, *words], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _page(record: dict[str, dict[str, list[float]]]) -> str:
    known = [name for name in _TASKS if name in record]
    better = sum(np.mean(record[name]["smrl"]) > np.mean(record[name]["sb3"]) for name in known)
    lines = [
        "# Ten tasks with the general settings",
        "",
        f"`make bench-classic`: the mean return of {_EPISODES} episodes without exploration after the same number of"
        f" training steps, as mean ± standard deviation of {len(_SEEDS)} seeds. smrl trains with the settings that it"
        " takes for any environment that has no preset, Stable-Baselines3's PPO with its defaults. Gymnasium counts the"
        " threshold as solved.",
        "",
        "| task | steps | threshold | smrl | Stable-Baselines3 |",
        "|---|--:|--:|--:|--:|",
        *(_row(name, record[name]) for name in known),
        "",
        f"smrl is better on {better} of {len(known)}.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, returns: dict[str, list[float]]) -> str:
    task = _TASKS[name]
    threshold = gymnasium.spec(task.env).reward_threshold
    digits = 2 if max(map(abs, returns["smrl"])) < 10 else 1
    cells = [name, f"{task.steps:,}", "–" if threshold is None else f"{threshold:,g}"]
    cells += [f"{np.mean(returns[who]):,.{digits}f} ± {np.std(returns[who]):,.{digits}f}" for who in ("smrl", "sb3")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
