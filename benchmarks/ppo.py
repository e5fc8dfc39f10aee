"""PPO side by side: ours, RLlib's own, Stable-Baselines3, one file of PyTorch, into benchmarks/RESULTS.md and .json.

Run: make bench. Every run is a process of its own on one core; implementations take turns, seed by seed. Equal work: 8
environments x 512 steps, minibatches of 128, 10 passes, two 64x64 tanh networks, Adam at 3e-4; rates leave out the
first iteration. Ours and RLlib run on our robots with `compat: bullet`, the others on the PyBullet port's, as their
users do: the same numbers, step by step. Peers have an environment of their own, `.venv/bench`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import env_steps, ppo_limit

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv" / "bench" / "bin" / "python"
# Steps of a run, and the multiple of Stable-Baselines3 and share of the limit that we are out for.
_ENVS: dict[str, tuple[int, float, float | None]] = {
    "CartPole-v1": (102_400, 5.0, 0.45),
    "RoboschoolReacher-v1": (102_400, 4.0, None),
    "RoboschoolHopper-v1": (102_400, 3.0, 0.8),
    "RoboschoolHumanoid-v1": (40_960, 1.8, 0.8),
}
# Goal, preset, and steps at which a run of a peer is given up.
_GOALS = {
    "CartPole-v1": (475, "cartpole", 500_000),
    "RoboschoolReacher-v1": (18, "reacher", 500_000),
    "RoboschoolHopper-v1": (2000, "hopper", 1_000_000),
}
# Steps after which returns of the presets are compared.
_LEARNED = {"CartPole-v1": 40_000, "RoboschoolReacher-v1": 100_000}
_NAMES = {"ours": "ours", "rllib": "RLlib", "sb3": "Stable-Baselines3", "single_file": "one file"}
_SEEDS = 3
_GOAL_SEEDS = 5
_STARTS = 5
_EQUAL = {
    "num_envs_per_env_runner": 8,
    "train_batch_size": 4096,
    "minibatch_size": 128,
    "num_epochs": 10,
    "lr": 3e-4,
    "gamma": 0.99,
    "lambda_": 0.95,
    "clip_param": 0.2,
    "use_kl_loss": False,
    "vf_clip_param": 1e9,
    "vf_loss_coeff": 0.5,
    "entropy_coeff": 0.0,
    "grad_clip": 0.5,
    "observation_filter": "NoFilter",
    "model.fcnet_hiddens": [64, 64],
    "model.fcnet_activation": "tanh",
    "model.vf_share_layers": False,
}


def main(parts: list[str]) -> None:
    """Measures all parts, or those that are named, and rewrites both files after each."""
    path = HERE / "RESULTS.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() and parts else {}
    for part in parts or list(_PARTS):
        found[part] = _PARTS[part]()
        found["machine"] = _machine()
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text("\n".join(_page(found)) + "\n", encoding="utf-8")


# An environment, an implementation, steps, and a goal if it is out for one.
_Job = tuple[str, str, int, float | None]


def _speed() -> list[dict[str, Any]]:
    jobs: list[_Job] = [(env_id, name, row[0], None) for env_id, row in _ENVS.items() for name in _NAMES]
    return _take_turns(_SEEDS, jobs)


def _goals() -> list[dict[str, Any]]:
    jobs: list[_Job] = [
        (env_id, name, most_steps, goal) for env_id, (goal, _, most_steps) in _GOALS.items() for name in ("ours", "sb3")
    ]
    return _take_turns(_GOAL_SEEDS, jobs)


def _returns() -> list[dict[str, Any]]:
    """The presets for so many steps, on the fast path and on RLlib's own: what they reach."""
    jobs: list[_Job] = [(env_id, name, steps, 1e9) for env_id, steps in _LEARNED.items() for name in ("ours", "rllib")]
    return _take_turns(_GOAL_SEEDS, jobs)


def _take_turns(seeds: int, jobs: list[_Job]) -> list[dict[str, Any]]:
    runs = []
    for seed in range(seeds):
        for env_id, implementation, steps, goal in jobs:
            run = _run(implementation, env_id, seed, steps, goal=goal)
            runs.append({"env": env_id, "implementation": implementation, "seed": seed, **run})
            printed = {key: round(value, 1) if isinstance(value, float) else value for key, value in runs[-1].items()}
            print(printed, flush=True)
    return runs


def _run(implementation: str, env_id: str, seed: int, steps: int, *, goal: float | None) -> Any:
    if implementation in ("ours", "rllib"):
        return _run_smrl(env_id, seed, steps, goal=goal, is_fast=implementation == "ours")
    job = {"env": env_id, "seed": seed, "steps": steps, "threshold": goal}
    return _run_peer(implementation, job)


def _run_peer(script: str, job: dict[str, Any]) -> Any:
    command = [str(PEERS), "-m", f"benchmarks.ppo_peers.{script}", json.dumps(job)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parent,
        preexec_fn=_on_one_core,
        env=_one_thread(),
    )
    return json.loads(done.stdout.splitlines()[-1])


def _run_smrl(env_id: str, seed: int, steps: int, *, goal: float | None, is_fast: bool) -> dict[str, float]:
    words: dict[str, Any] = {
        "config.seed": seed,
        "fast": is_fast,
        "export": False,
        "video_freq": 0,
        "checkpoint_freq": 0,
    }
    words["stop.timesteps_total"] = steps
    command = ["train"]
    if goal is None:
        words |= {f"config.{name}": value for name, value in _EQUAL.items()}
        words |= {"env": env_id, "stop.episode_reward_mean": 1e9}
        if env_id.startswith("Roboschool"):
            words |= {"config.env_config.compat": "bullet", "config.model.free_log_std": True}
    else:
        words["stop.episode_reward_mean"] = goal
        command += ["--preset", _GOALS[env_id][1]]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--out", folder, *(f"rl.training.{name}={json.dumps(value)}" for name, value in words.items())]
        _smrl(command)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    took = last["time_total_s"] - first["time_total_s"]
    rate = (last["timesteps_total"] - first["timesteps_total"]) / took
    return {
        "rate": rate,
        "steps": last["timesteps_total"],
        "seconds": last["time_total_s"],
        "mean": last["episode_reward_mean"],
    }


def _smrl(words: list[str]) -> None:
    command = [sys.executable, "-m", "runtime.cli", *words]
    subprocess.run(
        command, capture_output=True, check=True, cwd=HERE.parent, preexec_fn=_on_one_core, env=_one_thread()
    )


def _starts() -> list[float]:
    """Seconds from the command to the first env step; all cores, caches warm."""
    found = []
    for _ in range(_STARTS + 1):
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", "--preset", "reacher", "--out", folder, "rl.training.stop.training_iteration=1"]
            began = time.time()
            subprocess.run(
                [sys.executable, "-m", "runtime.cli", *words], capture_output=True, check=True, cwd=HERE.parent
            )
            row = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[0])
            written = (Path(folder) / "metrics.jsonl").stat().st_mtime
            found.append(written - began - row["time_total_s"])
    return found[1:]


def _env_rates() -> dict[str, Any]:
    _on_one_core()
    job = {"ids": list(env_steps.MUJOCO_IDS.values()), "steps": 5000}
    return env_steps.measure(_run_peer("env_steps", job))


def _limits() -> dict[str, float]:
    _on_one_core()
    return {env_id: ppo_limit.limit(env_id) for env_id in _ENVS}


def _on_one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


# In an order in which a part that takes a core for itself comes last.
_PARTS = {
    **{"speed": _speed, "goals": _goals, "returns": _returns, "starts": _starts},
    **{"env_steps": _env_rates, "limits": _limits},
}


def _machine() -> dict[str, Any]:
    packages = ("ray", "torch", "numpy", "numba", "gymnasium", "pybullet")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": f"{os.cpu_count()} CPUs, {cpu} ({platform.machine()}), shared",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "peers": (HERE / "ppo_peers" / "requirements.txt").read_text().split("\n", 1)[1].split(),
    }


def _page(found: dict[str, Any]) -> list[str]:
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        "# PPO, measured side by side",
        "",
        *(__doc__ or "").splitlines()[2:],
        "",
        f"Machine: {machine['cpu']}; load {machine['load']} at the end; Python {machine['python']}, {versions};"
        f" peers {', '.join(machine['peers'])}.",
    ]
    if "speed" in found:
        lines += ["", "## Steps a second, end to end, on one core", "", *_speed_table(found)]
    if "goals" in found:
        lines += ["", "## Time to a return, each with its own best-known settings", "", *_goals_table(found["goals"])]
    if "returns" in found:
        lines += ["", "## Mean return of the presets after equal steps", "", *_returns_table(found["returns"])]
    if "starts" in found:
        seconds = sorted(found["starts"])
        lines += ["", "## From the command to the first env step", ""]
        lines += [f"`smrl train --preset reacher`: median {statistics.median(seconds):.1f} s,"]
        lines += [f"{seconds[0]:.1f} to {seconds[-1]:.1f} of {len(seconds)}."]
    if "env_steps" in found:
        lines += [
            "",
            "## Env steps a second of CPU, one core, random actions",
            "",
            *env_steps.table(found["env_steps"]),
        ]
    return lines


def _speed_table(found: dict[str, Any]) -> list[str]:
    limits = found.get("limits", {})
    lines = [
        "Medians over seeds; ratios are medians of each seed's. *Limit*: stepping the environments, matrix products and"
        " Adam alone.",
        "",
        "| env | ours | "
        + " | ".join(f"{name} (ours is)" for key, name in _NAMES.items() if key != "ours")
        + " | limit |",
        "|---|---|---|---|---|---|",
    ]
    for env_id in _ENVS:
        rates = {
            key: {
                run["seed"]: run["rate"]
                for run in found["speed"]
                if (run["env"], run["implementation"]) == (env_id, key)
            }
            for key in _NAMES
        }
        ours = rates["ours"]
        cells = [f"{statistics.median(ours.values()):,.0f}"]
        for key in ("rllib", "sb3", "single_file"):
            ratio = statistics.median(ours[seed] / rate for seed, rate in rates[key].items())
            cells.append(f"{statistics.median(rates[key].values()):,.0f} ({ratio:.1f} x)")
        if env_id in limits:
            share = statistics.median(ours.values()) / limits[env_id]
            cells.append(f"{limits[env_id]:,.0f} (ours reaches {share:.0%})")
        lines.append(f"| {env_id} | {' | '.join(cells)} |")
    lines += ["", "Mean return of the last 100 episodes, seed by seed:", ""]
    lines += ["| env | steps | " + " | ".join(_NAMES.values()) + " |", "|---|---|---|---|---|---|"]
    for env_id, (steps, _, _) in _ENVS.items():
        cells = []
        for key in _NAMES:
            means = [r["mean"] for r in found["speed"] if (r["env"], r["implementation"]) == (env_id, key)]
            cells.append(" ".join(f"{mean:,.0f}" for mean in means))
        lines.append(f"| {env_id} | {steps:,} | {' | '.join(cells)} |")
    return lines


def _returns_table(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["| env | steps | path | mean over seeds | seeds |", "|---|---|---|---|---|"]
    for env_id in _LEARNED:
        for key in ("ours", "rllib"):
            mine = [run for run in runs if (run["env"], run["implementation"]) == (env_id, key)]
            means = [run["mean"] for run in mine]
            cells = f"{statistics.mean(means):,.1f} ± {statistics.stdev(means):.1f}"
            each = ", ".join(f"{mean:,.1f}" for mean in means)
            lines.append(f"| {env_id} | {mine[0]['steps']:,} | {_NAMES[key]} | {cells} | {each} |")
    return lines


def _goals_table(runs: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| env | goal | library | seconds, least / median / most | steps, median | reached |",
        "|---|---|---|---|---|---|",
    ]
    for env_id, (goal, _, _) in _GOALS.items():
        for key in ("ours", "sb3"):
            mine = [run for run in runs if (run["env"], run["implementation"]) == (env_id, key)]
            seconds = sorted(run["seconds"] for run in mine)
            reached = sum(run["mean"] >= goal for run in mine)
            cells = f"{seconds[0]:,.1f} / {statistics.median(seconds):,.1f} / {seconds[-1]:,.1f}"
            steps = statistics.median(run["steps"] for run in mine)
            lines.append(f"| {env_id} | {goal:,} | {_NAMES[key]} | {cells} | {steps:,.0f} | {reached} of {len(mine)} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
