"""Plays OpenAI's published agents on our robots, and on Roboschool's own: zoo.json, and the table in docs/robots.md.

Run: make zoo ZOO=FOLDER, where the agents lie as `Roboschool<robot>_v1_2017jul.npz` or `_v0_2017may.npz`: the arrays of
https://github.com/openai/roboschool/tree/master/agent_zoo. Roboschool's own robots are those of its last wheel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.roboschool.registration import ROBOSCHOOL_IDS, robot_of
from envs.roboschool.vector_env import RoboschoolVectorEnv

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "robots.md"
RECORD = Path(__file__).with_suffix(".json")
WHEEL = ROOT / ".venv" / "roboschool"
BEGIN, END = "<!-- zoo -->\n", "<!-- end of zoo -->\n"


class Agent:
    """A policy of Roboschool's zoo: two hidden layers with ReLU on raw observations.

    Raises:
        ValueError: The file is not an archive of such a policy, or not for these sizes.
    """

    def __init__(self, path: Path, *, observation_size: int, action_size: int) -> None:
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                self._layers = [
                    (arrays[f"{name}_w"].astype(np.float32), arrays[f"{name}_b"].astype(np.float32))
                    for name in ("dense1", "dense2", "final")
                ]
        except Exception as error:  # a cut archive fails in any way
            raise ValueError(f"{path}: cannot be read as an agent of Roboschool's zoo: {error}") from error
        sizes = self._layers[0][0].shape[0], self._layers[-1][0].shape[1]
        if sizes != (observation_size, action_size):
            raise ValueError(
                f"{path}: maps {sizes[0]} observations to {sizes[1]} actions; the robot has {observation_size} and "
                f"{action_size}. Choose the agent of this robot."
            )

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (N, A) actions, not clipped, for (N, O) observations."""
        hidden = observations
        for weights, biases in self._layers[:-1]:
            hidden = np.maximum(hidden @ weights + biases, 0.0)
        actions: NDArray[np.float32] = hidden @ self._layers[-1][0] + self._layers[-1][1]
        return actions


def play(env_id: str, path: Path, *, episodes: int, seed: int = 0) -> tuple[list[float], list[int]]:
    """Plays an agent on our robot; returns the returns and lengths of its first episodes, one in each environment."""
    limit = ROBOSCHOOL_IDS[env_id].max_episode_steps
    env = RoboschoolVectorEnv(robot_of(env_id), min(episodes, 20), max_episode_steps=limit)
    observation_size = env.observations.shape[1]
    agent = Agent(path, observation_size=observation_size, action_size=env.action_space.sample().shape[1])
    returns: list[float] = []
    lengths: list[int] = []
    try:
        while len(returns) < episodes:
            observations, _ = env.reset(seed=seed + len(returns))
            totals, steps, running = np.zeros(env.num_envs), np.zeros(env.num_envs, int), np.ones(env.num_envs, bool)
            while running.any():
                observations, rewards, terminated, truncated, _ = env.step(agent.act(observations))
                totals += rewards * running
                steps += running
                running &= ~(terminated | truncated)
            returns += totals.tolist()
            lengths += steps.tolist()
    finally:
        env.close()
    return returns[:episodes], lengths[:episodes]


def play_original(robot: str, path: Path, *, episodes: int) -> tuple[list[float], list[int]]:
    """Plays an agent on Roboschool's own robot; its own process has its own modules named gym and roboschool."""
    job = {"robot": robot, "seed": 0, "agent": str(path), "episodes": episodes}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "peers" / "roboschool_wheel.py"), str(WHEEL)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["returns"], answer["lengths"]


def find_agent(zoo: Path, env_id: str) -> Path | None:
    """Returns the latest agent of a robot in a folder."""
    found = sorted(zoo.glob(f"{env_id.removesuffix('-v1')}_v?_2017*.npz"))
    return found[-1] if found else None


def _measure(env_id: str, zoo: Path, episodes: int) -> dict[str, Any]:
    path = find_agent(zoo, env_id)
    if path is None:
        raise SystemExit(f"{zoo}: has no agent of {env_id}; expected {env_id.removesuffix('-v1')}_v1_2017jul.npz.")
    robot = robot_of(env_id)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        original = pool.submit(play_original, robot, path, episodes=episodes)
        ours = play(env_id, path, episodes=episodes)
        theirs = original.result()
    return {"agent": path.stem, "smrl": _summarize(*ours), "roboschool": _summarize(*theirs)}


def _summarize(returns: list[float], lengths: list[int]) -> list[float]:
    return [round(float(number), 1) for number in (np.mean(returns), np.std(returns), np.mean(lengths))]


def row(env_id: str, found: dict[str, Any]) -> str:
    """Makes a row of the table from one of zoo.json: agent, threshold, and both robots' returns and lengths."""
    threshold = ROBOSCHOOL_IDS[env_id].reward_threshold
    cells = [f"`{found['agent']}`", "–" if threshold is None else f"{threshold:,.0f}"]
    for robot in ("smrl", "roboschool"):
        mean, deviation, length = found[robot]
        cells.append(f"{mean:,.1f} ± {deviation:,.1f}, {length:,.0f} steps")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Plays all agents, and rewrites the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zoo", type=Path, help="folder of the agents")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each agent")
    given = parser.parse_args()
    record = {}
    for env_id in ROBOSCHOOL_IDS:
        record[env_id] = _measure(env_id, given.zoo, given.episodes)
        print(row(env_id, record[env_id]), flush=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = [
        f"Mean return ± standard deviation and mean length of {given.episodes} episodes:",
        "",
        "| agent | threshold | on smrl's robot | on Roboschool 1.0.49 |",
        "|---|--:|--:|--:|",
        *(row(env_id, found) for env_id, found in record.items()),
    ]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n".join(table) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
