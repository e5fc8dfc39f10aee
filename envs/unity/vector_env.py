"""Gymnasium's vector environment over players: every agent of the learning behaviour is a row, whatever its player."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.unity.behaviour import Behaviour
from envs.unity.crew import Crew, Result
from envs.unity.options import read_options
from envs.unity.player import PlayerError

_SILENT_MESSAGES_AT_MOST = 10_000


class UnityVectorEnv(VectorEnv[Any, Any, Any]):
    """Agents of one behaviour, in one player or several that step at the same time.

    Agents ask for actions when they like. Of each step, `info` says by row:

    - `acting`: whether it asks for an action now. What is given for other rows goes nowhere;
    - `stepped`: whether the result of its last action came. Rewards and ends of other rows mean nothing;
    - `lost`: whether its player failed, so that the result of its last action will never come. The player has been
      started anew;
    - `action_mask`: (N, M) true where an action is allowed, all branches side by side;
    - `final_obs`: the last observation where an episode ended (`_final_obs`); a step limit of Unity's is a truncation.

    A row whose episode ended goes to the next agent that appears, in the same step where there is one. The scene's
    seed is an option, because a player takes it at its start alone; `reset(seed=…)` changes nothing.

    Attributes:
        restarts: How often a player was started anew.
        behaviour: Of the agents.

    Args:
        num_envs: How many players; `num_envs` of the environment is how many agents they have.
        worker: Of this process among those of its job; it shifts the players' seeds.
        settings: As `read_options` takes them.

    Raises:
        ValueError: The settings are wrong.
        PlayerError: A player does not start.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's way

    def __init__(self, num_envs: int = 1, *, worker: int = 0, render_mode: str | None = None, **settings: Any) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: got {num_envs}; expected at least 1.")
        options = read_options(**settings)
        self.render_mode, self._crews = render_mode, list[Crew]()
        try:
            for number in range(num_envs):
                begin = sum(crew.size for crew in self._crews)
                self._crews.append(Crew(options, number=number, worker=worker, begin=begin))
        except BaseException:
            self.close()
            raise
        self.behaviour: Behaviour = self._crews[0].player.behaviour
        self.num_envs = sum(crew.size for crew in self._crews)
        self.single_observation_space = self.behaviour.observation_space
        self.single_action_space = self.behaviour.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def restarts(self) -> int:
        """How often a player was started anew."""
        return sum(crew.restarts for crew in self._crews)

    def take_faults(self) -> list[str]:
        """Why players were started anew since the last call, a line each."""
        return [crew.faults.pop(0) for crew in self._crews for _ in range(len(crew.faults))]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Every agent of every player begins an episode."""
        result = Result(self.behaviour, self.num_envs)
        for crew in self._crews:
            crew.begin_anew(result)
        self._go_on_until_asked(result)
        return result.observations, result.info()

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Hands over the actions of the rows that asked, and goes on until some row asks again.

        Raises:
            PlayerError: A player failed again and again.
            SceneError: It said what cannot be learned from.
        """
        continuous, discrete = self.behaviour.split(actions)
        result = Result(self.behaviour, self.num_envs)
        for crew in self._crews:
            crew.send(continuous, discrete)
        for crew in self._crews:
            crew.receive(result)
        self._go_on_until_asked(result)
        return result.observations, result.rewards, result.terminated, result.truncated, result.info()

    def _go_on_until_asked(self, result: Result) -> None:
        for _ in range(_SILENT_MESSAGES_AT_MOST):
            if result.acting.any():
                return
            for crew in self._crews:
                crew.send(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64))
            for crew in self._crews:
                crew.receive(result)
        raise PlayerError(
            f"Unity scene: no agent asked for an action in {_SILENT_MESSAGES_AT_MOST} messages; expected agents with a "
            "decision requester. Look at the scene's Behavior Parameters."
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the players; called by `close`."""
        for crew in self._crews:
            crew.player.close()
