"""Unity measured without Unity: the protocol's cost beside mlagents-envs' own classes, start-up, and training.

The player is the tests' stand-in, which speaks the protocol over real gRPC from a process of its own and costs a few
microseconds an agent; a real one costs what its scene costs, on top and in parallel.

Run: .venv/bin/python -m benchmarks.unity [PART …], into benchmarks/unity.md. Parts: `steps`, `start`, `training`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core is what is measured; training sets its own threads

import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.result_page import write_sections
from envs.unity.protocol import ActionTuple, UnityEnvironment
from envs.unity.vector_env import UnityVectorEnv
from tests.unity_stand_in import build_player

_PAGE = Path(__file__).with_suffix(".md")
_ROOT = _PAGE.parent.parent
# A step, what ends it all, and how many agents it is of.
Measured = tuple[Callable[[], object], Callable[[], None], int]
_STEPS = 1000
_ROUNDS = 7
_SEEDS = 5


def _wrapped(folder: Path) -> Measured:
    """gym-unity's wrapper around mlagents-envs' UnityEnvironment, and one agent."""
    from runtime.compat.gym_unity import UnityToGymWrapper

    path = build_player(folder, "OneBall")
    env = UnityToGymWrapper(UnityEnvironment(str(path), no_graphics=True, base_port=6100))
    env.reset()
    action = np.zeros(2, np.float32)

    def step() -> None:
        if env.step(action)[2]:
            env.reset()

    return step, env.close, 1


def _bare(folder: Path) -> Measured:
    """mlagents-envs' UnityEnvironment without a wrapper, and twelve agents."""
    path = build_player(folder, "3DBall")
    env = UnityEnvironment(str(path), no_graphics=True, base_port=6200)
    env.reset()
    name = next(iter(env.behavior_specs))
    actions = ActionTuple(continuous=np.zeros((12, 2), np.float32))

    def step() -> None:
        env.set_actions(name, actions)
        env.step()
        env.get_steps(name)

    return step, env.close, 12


def _ours(folder: Path, players: int = 1) -> Measured:
    path = build_player(folder, "3DBall")
    env = UnityVectorEnv(players, file_name=path, log_folder=folder / "logs")
    env.reset()
    actions = np.zeros((env.num_envs, 2), np.float32)
    return lambda: env.step(actions), env.close, env.num_envs


def measure_steps() -> list[str]:
    """Rows of steps a second, of rounds that take turns."""
    rows = [
        "| | agents | steps/s | agent-steps/s | our process, µs a step | of the wrapper's agent-steps |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[], Measured]] = {
            "gym-unity's wrapper, one agent": lambda: _wrapped(Path(folder)),
            "mlagents-envs' UnityEnvironment": lambda: _bare(Path(folder)),
            "ours": lambda: _ours(Path(folder)),
            "ours, two players": lambda: _ours(Path(folder), players=2),
        }
        made = {name: make() for name, make in makers.items()}
        walls: dict[str, list[float]] = {name: [] for name in made}
        cpus: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(_ROUNDS):
            for name, (step, _, _) in made.items():
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(_STEPS):
                    step()
                walls[name].append((time.perf_counter() - wall) / _STEPS)
                cpus[name].append((time.process_time() - cpu) / _STEPS)
        for _, close, _ in made.values():
            close()
    peer = "gym-unity's wrapper, one agent"
    for name, (_, _, agents) in made.items():
        wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
        ratio = agents / wall * statistics.median(walls[peer])
        rows.append(f"| {name} | {agents} | {1 / wall:,.0f} | {agents / wall:,.0f} | {cpu * 1e6:,.0f} | {ratio:.1f} |")
    return rows


def measure_start() -> list[str]:
    """A row of seconds from the command to the player's first step."""
    found = []
    for number in range(_SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            build_player(Path(folder), "Basic")
            began = time.time()
            _train(Path(folder), "./Basic.x86_64", number, "rl.training.stop.training_iteration=1")
            (log,) = (Path(folder) / "results" / "unity").glob("*.log")
            stamp = re.search(r"first step at (\S+)", log.read_text())
            assert stamp is not None
            found.append(float(stamp[1]) - began)
    return [
        f"`smrl train` to the player's first step: {statistics.median(found):.1f} s (median of {_SEEDS}, "
        f"{min(found):.1f} to {max(found):.1f}), the player's own start included."
    ]


def measure_training() -> list[str]:
    """Rows of what the presets need."""
    rows = ["| preset | seed | return | steps | seconds of training |", "|---|--:|--:|--:|--:|"]
    for preset, scene in (("unity-basic", "Basic"), ("unity-3dball", "3DBall")):
        for seed in range(_SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                build_player(Path(folder), scene)
                _train(Path(folder), f"./{scene}.x86_64", seed, preset=preset)
                lines = (Path(folder) / "results" / "metrics.jsonl").read_text().splitlines()
                last = json.loads(lines[-1])
            rows.append(
                f"| {preset} | {seed} | {last['episode_reward_mean']:.3f} | {last['timesteps_total']:,} | "
                f"{last['time_total_s']:.1f} |"
            )
            print(rows[-1], flush=True)
    return rows


def _train(folder: Path, player: str, seed: int, *settings: str, preset: str = "unity-basic") -> None:
    words = ["train", "--preset", preset, "--out", "results", f"rl.training.config.env_config.env_name={player}"]
    words += [f"rl.training.config.seed={seed}", "rl.training.export=false", *settings]
    smrl = Path(sys.executable).with_name("smrl")
    subprocess.run([str(smrl), *words], cwd=folder, check=True, capture_output=True)


_PARTS = {
    "steps": ("Steps a second, 3DBall", measure_steps),
    "start": ("Start", measure_start),
    "training": ("Training", measure_training),
}


def main() -> None:
    """Measures the parts that are asked for, all by default, and writes their sections of the page."""
    machine = platform.processor() or platform.machine()
    head = (
        "# Unity\n\nWritten by `python -m benchmarks.unity`. "
        "Every player is the tests' stand-in, in a process of its own:\n"
        f"what a scene of Unity's costs comes on top. {os.cpu_count()} cores, {machine}, Python "
        f"{platform.python_version()}; medians\nof rounds that take turns.\n"
    )
    for name in sys.argv[1:] or _PARTS:
        title, measure = _PARTS[name]
        section = "\n".join(measure())
        print(section, flush=True)
        write_sections(_PAGE, head, (title for title, _ in _PARTS.values()), {title: section})


if __name__ == "__main__":
    main()
