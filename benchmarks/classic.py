"""Trains ten of Gymnasium's tasks with the general settings, and with Stable-Baselines3's defaults; writes classic.md.

Run: make bench-classic [TASKS="Pendulum-v1 Taxi-v3"]. Tasks that are not named keep their rows, and what
Stable-Baselines3 returned is kept where it is known. Both train for the same number of steps and then play without
exploration. Returns are compared, not times. Four tasks are trained as long as in rl-baselines3-zoo, too.
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
_EPISODES, _ZOO_EPISODES = 20, 100


class Task(NamedTuple):
    """An environment and how long to train on it."""

    env: str
    steps: int
    arguments: dict[str, Any] = {}  # noqa: RUF012  # never changed
    episodes: int = _EPISODES


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
# Those of the zoo's PPO agents that were trained for a million steps, with the return of each one's one run. Source:
# benchmark.md of DLR-RM/rl-baselines3-zoo at 0088472.
_ZOO = {
    "Acrobot-v1, as in the zoo": (Task("Acrobot-v1", 1_000_000, episodes=_ZOO_EPISODES), -73.506),
    "MountainCar-v0, as in the zoo": (Task("MountainCar-v0", 1_000_000, episodes=_ZOO_EPISODES), -110.423),
    "LunarLander-v3, as in the zoo": (Task("LunarLander-v3", 1_000_000, episodes=_ZOO_EPISODES), 242.119),
    "LunarLander-v3, continuous, as in the zoo": (
        Task("LunarLander-v3", 1_000_000, {"continuous": True}, _ZOO_EPISODES),
        270.863,
    ),
}


def main(words: list[str]) -> None:
    """Measures the tasks that are named, or all, and rewrites the page after each run."""
    record = json.loads(_RECORD.read_text(encoding="utf-8")) if _RECORD.exists() else {}
    for name in words or (*_TASKS, *_ZOO):
        task = _TASKS[name] if name in _TASKS else _ZOO[name][0]
        returns: dict[str, list[float]] = {"smrl": [], "sb3": record.get(name, {}).get("sb3", [])}
        trainers = {"smrl": _train_ours} if returns["sb3"] or name in _ZOO else {"smrl": _train_ours, "sb3": _train_sb3}
        for seed in _SEEDS:
            for who, train in trainers.items():
                returns[who].append(round(train(task, seed), 2))
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
        evaluate = [*smrl, "evaluate", folder, f"evaluate_episodes={task.episodes}", f"seed={1000 + seed}"]
        subprocess.run(evaluate, check=True, capture_output=True, cwd=_ROOT)
        played = json.loads((Path(folder) / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    return float(played["mean_reward"])


def _train_sb3(task: Task, seed: int) -> float:
    python = _ROOT / ".venv" / "bench" / "bin" / "python"
    script = [str(python), str(_ROOT / "benchmarks" / "ppo_peers" / "classic.py")]
    words = [task.env, json.dumps(task.arguments), str(task.steps), str(seed), str(task.episodes)]
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
        "",
        "## As many steps as in rl-baselines3-zoo",
        "",
        "The zoo's PPO has settings of its own for each task, and one run; smrl has the general settings here, too. "
        f"{_ZOO_EPISODES} episodes.",
        "",
        "| task | steps | threshold | smrl | zoo, tuned |",
        "|---|--:|--:|--:|--:|",
        *(_zoo_row(name, record[name]) for name in _ZOO if name in record),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, returns: dict[str, list[float]]) -> str:
    return f"| {' | '.join([name, *_facts(_TASKS[name]), _mean(returns['smrl']), _mean(returns['sb3'])])} |"


def _zoo_row(name: str, returns: dict[str, list[float]]) -> str:
    task, theirs = _ZOO[name]
    cells = [name.removesuffix(", as in the zoo"), *_facts(task), _mean(returns["smrl"]), f"{theirs:,.1f}"]
    return f"| {' | '.join(cells)} |"


def _facts(task: Task) -> list[str]:
    threshold = gymnasium.spec(task.env).reward_threshold
    return [f"{task.steps:,}", "–" if threshold is None else f"{threshold:,g}"]


def _mean(returns: list[float]) -> str:
    digits = 2 if max(map(abs, returns)) < 10 else 1
    return f"{np.mean(returns):,.{digits}f} ± {np.std(returns):,.{digits}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
