"""Gymnasium vector environment of Unity players: each agent of the learning behavior is a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.unity.behavior import Behavior
from envs.unity.options import read_options
from envs.unity.player import PlayerError
from envs.unity.player_rows import PlayerRows, Result

_SILENT_MESSAGES_AT_MOST = 10_000


class UnityVectorEnv(VectorEnv[Any, Any, Any]):
    """Agents of one behavior, in one player or several that step at the same time.

    Each agent decides when it requests an action. After each step, `info` holds for every row:

    - `acting`: whether the agent requests an action now; actions of other rows are ignored;
    - `stepped`: whether the result of its last action arrived; rewards and ends of other rows mean nothing;
    - `lost`: whether its player failed and was restarted, so that the result of its last action is lost;
    - `action_mask`: (N, M) true where an action is allowed, all branches side by side;
    - `final_obs`: the last observation where an episode ended (`_final_obs`); a step limit of Unity's is a truncation.

    A row whose episode ended is given to the next agent that appears, in the same step where there is one. The scene's
    seed is an option, because a player reads it at its start only; `reset(seed=…)` changes nothing.

    Attributes:
        restarts: Number of restarts of players.
        behavior: Sensors and actions of the agents.

    Args:
        num_envs: Number of players; the attribute `num_envs` is the number of their agents.
        worker: Index of this process among the job's processes; it shifts the players' seeds.
        settings: Keyword arguments of `read_options`.

    Raises:
        ValueError: The settings are wrong.
        PlayerError: A player does not start.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's way

    def __init__(self, num_envs: int = 1, *, worker: int = 0, render_mode: str | None = None, **settings: Any) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: got {num_envs}; expected at least 1.")
        options = read_options(**settings)
        self.render_mode = render_mode
        self._players = list[PlayerRows]()
        try:
            for number in range(num_envs):
                begin = sum(player_rows.size for player_rows in self._players)
                self._players.append(PlayerRows(options, number=number, worker=worker, begin=begin))
        except BaseException:
            self.close()
            raise
        self.behavior: Behavior = self._players[0].player.behavior
        self.num_envs = sum(player_rows.size for player_rows in self._players)
        self.single_observation_space = self.behavior.observation_space
        self.single_action_space = self.behavior.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def restarts(self) -> int:
        """Number of restarts of players."""
        return sum(player_rows.restarts for player_rows in self._players)

    def take_faults(self) -> list[str]:
        """Returns a line for each restart since the last call, with its reason."""
        return [player_rows.faults.pop(0) for player_rows in self._players for _ in range(len(player_rows.faults))]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode of every agent of every player."""
        result = Result(self.behavior, self.num_envs)
        for player_rows in self._players:
            player_rows.begin_episodes(result)
        self._step_until_action_requested(result)
        return result.observations, result.info()

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Sends the actions of the rows that requested one, and steps until a row requests the next.

        Raises:
            PlayerError: A player failed too often in a row.
            SceneError: A player sent a message that cannot be learned from.
        """
        continuous, discrete = self.behavior.split(actions)
        result = Result(self.behavior, self.num_envs)
        for player_rows in self._players:
            player_rows.send(continuous, discrete)
        for player_rows in self._players:
            player_rows.receive(result)
        self._step_until_action_requested(result)
        return result.observations, result.rewards, result.terminated, result.truncated, result.info()

    def _step_until_action_requested(self, result: Result) -> None:
        for _ in range(_SILENT_MESSAGES_AT_MOST):
            if result.acting.any():
                return
            for player_rows in self._players:
                player_rows.send(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64))
            for player_rows in self._players:
                player_rows.receive(result)
        raise PlayerError(
            f"Unity scene: no agent asked for an action in {_SILENT_MESSAGES_AT_MOST} messages; expected agents with a "
            "decision requester. Check the scene's Behavior Parameters."
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Stops the players; called by `close`."""
        for player_rows in self._players:
            player_rows.player.close()
