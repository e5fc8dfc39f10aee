"""Two small environments of several agents: one where they cooperate, and one with two kinds of agents.

smrl train --env examples.agents:Meet
smrl train --env examples.agents:Hunt policies=wolf,sheep
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

_STEP = 0.2


class Meet(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # pettingzoo is not typed for strict mode
    """Two agents on a line are paid for being near each other; PettingZoo's interface.

    Args:
        steps: Length of an episode.
        render_mode: "rgb_array" for frames.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "name": "meet"}  # noqa: RUF012  # as PettingZoo has it

    def __init__(self, steps: int = 20, render_mode: str | None = None) -> None:
        self.possible_agents = ["left_0", "right_0"]
        self.agents = list(self.possible_agents)
        self.render_mode = render_mode
        self._steps = steps
        self._random = np.random.default_rng()

    def observation_space(self, agent: str) -> Space[Any]:
        """Own position, and the other's."""
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> Space[Any]:
        """Left, stay or right."""
        return Discrete(3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Draws both positions."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._taken = 0
        self._at = {agent: float(self._random.uniform(-1, 1)) for agent in self.agents}
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Moves the agents; each is paid minus the distance between them."""
        for agent, action in actions.items():
            self._at[agent] = float(np.clip(self._at[agent] + _STEP * (int(action) - 1), -1, 1))
        self._taken += 1
        is_cut = self._taken >= self._steps
        agents = list(self.agents)
        if is_cut:
            self.agents = []
        distance = abs(self._at["left_0"] - self._at["right_0"])
        return (
            self._observe(),
            dict.fromkeys(agents, -distance),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, is_cut),
            {agent: {} for agent in agents},
        )

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        left, right = self._at["left_0"], self._at["right_0"]
        return {"left_0": np.array([left, right], np.float32), "right_0": np.array([right, left], np.float32)}

    def render(self) -> NDArray[np.uint8]:
        """A red and a green bar on black."""
        frame = np.zeros((32, 64, 3), np.uint8)
        for color, position in enumerate(self._at.values()):
            frame[:, round((position + 1) * 31), color] = 255
        return frame

    def close(self) -> None:
        """Has nothing to free."""


class Hunt(MultiAgentEnv):  # type: ignore[misc]  # ray is not typed for strict mode
    """Two wolves, which go left or right, hunt a sheep, which chooses its speed; RLlib's interface.

    Each wolf is paid minus the distance of the nearer one, the sheep that distance. The second wolf tires halfway.

    Args:
        config: `steps`, the length of an episode.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._steps = int((config or {}).get("steps", 10))
        self.possible_agents = ["wolf_0", "wolf_1", "sheep_0"]
        self.agents = list(self.possible_agents)
        wolf, sheep = Box(-1, 1, (3,), np.float32), Box(-1, 1, (2,), np.float32)
        self.observation_spaces = {"wolf_0": wolf, "wolf_1": wolf, "sheep_0": sheep}
        speed = Box(-2, 2, (1,), np.float32)
        self.action_spaces = {"wolf_0": Discrete(3), "wolf_1": Discrete(3), "sheep_0": speed}
        self._random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Draws all positions."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._taken = 0
        self._at = {agent: float(self._random.uniform(-1, 1)) for agent in self.agents}
        return self._observe(), {}

    def step(self, action_dict: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Moves the agents that still run."""
        for agent, action in action_dict.items():
            speed = float(action[0]) / 2 if agent == "sheep_0" else int(action) - 1
            self._at[agent] = float(np.clip(self._at[agent] + _STEP * speed, -1, 1))
        self._taken += 1
        distance = min(abs(self._at[wolf] - self._at["sheep_0"]) for wolf in ("wolf_0", "wolf_1"))
        rewards = {agent: distance if agent == "sheep_0" else -distance for agent in action_dict}
        observations = self._observe()
        tired = {"wolf_1": True} if self._taken == self._steps // 2 else {}
        self.agents = [agent for agent in self.agents if agent not in tired]
        return observations, rewards, {**tired, "__all__": self._taken >= self._steps}, {"__all__": False}, {}

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        wolves, sheep = [self._at["wolf_0"], self._at["wolf_1"]], self._at["sheep_0"]
        seen = {
            "wolf_0": [wolves[0], wolves[1], sheep],
            "wolf_1": [wolves[1], wolves[0], sheep],
            "sheep_0": [sheep, min(wolves, key=lambda wolf: abs(wolf - sheep))],
        }
        return {agent: np.array(seen[agent], np.float32) for agent in self.agents}
