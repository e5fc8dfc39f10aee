"""Gymnasium's vector environment over players: every agent of the learning behaviour is a row, whatever its player."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.unity.behaviour import Behaviour, Steps
from envs.unity.options import Options, read_options
from envs.unity.player import Player, PlayerError, SceneError

_NOBODY = -1
# Restarts of a player without an episode that ended in between.
_RESTARTS_AT_MOST = 3
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
        self.render_mode, self._crews = render_mode, list[_Crew]()
        try:
            for number in range(num_envs):
                begin = sum(crew.size for crew in self._crews)
                self._crews.append(_Crew(options, number=number, worker=worker, begin=begin))
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
        result = _Result(self.behaviour, self.num_envs)
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
        result = _Result(self.behaviour, self.num_envs)
        for crew in self._crews:
            crew.send(continuous, discrete)
        for crew in self._crews:
            crew.receive(result)
        self._go_on_until_asked(result)
        return result.observations, result.rewards, result.terminated, result.truncated, result.info()

    def _go_on_until_asked(self, result: _Result) -> None:
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


class _Result:
    """What a step says of every row, filled in as messages arrive."""

    def __init__(self, behaviour: Behaviour, rows: int) -> None:
        space, masks = behaviour.observation_space, sum(behaviour.branches)
        self.observations, self.last = (_zeros(space, rows) for _ in range(2))
        self.rewards = np.zeros(rows)
        self.terminated, self.truncated, self.acting, self.stepped, self.lost = np.zeros((5, rows), np.bool_)
        self.masks = np.ones((rows, masks), np.bool_)

    def info(self) -> dict[str, Any]:
        found = {"acting": self.acting, "stepped": self.stepped, "lost": self.lost}
        if self.masks.size:
            found["action_mask"] = self.masks
        ended = self.terminated | self.truncated
        return {**found, "final_obs": self.last, "_final_obs": ended} if ended.any() else found


class _Crew:
    """A player and the rows of its agents.

    Attributes:
        player: The player, started anew when it fails.
        size: How many rows.
        restarts: How often that happened.
        faults: Why, as far as nobody has asked yet.
    """

    def __init__(self, options: Options, *, number: int, worker: int, begin: int) -> None:
        self._options, self._number, self._worker = options, number, worker
        self.player = Player(options, number=number, worker=worker)
        self.restarts, self._in_a_row, self.faults = 0, 0, list[str]()
        # Agents that begin at once; others may come when some have left.
        self.size = options.num_agents or max(1, len(self.player.steps().ids))
        self._rows = range(begin, begin + self.size)
        self._row_of: dict[int, int] = {}
        self._asking: list[int] = []
        self._is_fresh = True

    def begin_anew(self, result: _Result) -> None:
        """Every agent begins an episode; a player that was just started has done so already."""
        try:
            steps = self.player.steps() if self._is_fresh else self.player.begin()
        except PlayerError as error:
            steps = self._restart(error)
        self._row_of, self._is_fresh = {}, False
        self._take(steps, result)

    def send(self, continuous: NDArray[np.float32], discrete: NDArray[np.int64]) -> None:
        """Sends the actions (N, …) of the rows that asked; agents without a row do nothing."""
        self._is_fresh = False
        rows = [row for row in self._asking if row != _NOBODY]
        wires = iter(self.player.behaviour.to_wire(continuous[rows], discrete[rows]) if rows else ())
        idle = self.player.behaviour.idle() if len(rows) < len(self._asking) else None
        self.player.send([idle if row == _NOBODY else next(wires) for row in self._asking])

    def receive(self, result: _Result) -> None:
        """Takes the player's next message; one that failed is started anew."""
        try:
            steps = self.player.receive()
        except PlayerError as error:
            result.lost[list(self._row_of.values())] = True
            steps = self._restart(error)
            self._row_of = {}
        self._take(steps, result)

    def _restart(self, error: PlayerError) -> Steps:
        """A new player's first steps.

        Raises:
            PlayerError: That happens too often.
        """
        self.restarts, self._in_a_row = self.restarts + 1, self._in_a_row + 1
        self.faults.append(f"{str(error).splitlines()[0]} Its log: {self.player.log}")
        if self._in_a_row > _RESTARTS_AT_MOST:
            raise PlayerError(
                f"{error}\nIt was started anew {_RESTARTS_AT_MOST} times before, and no episode ended in between."
            ) from error
        self.player = Player(self._options, number=self._number, worker=self._worker)
        return self.player.steps()

    def _take(self, steps: Steps, result: _Result) -> None:
        for number, agent in enumerate(steps.ended_ids.tolist()):
            row = self._row_of.pop(agent, None)
            if row is None:  # it ended before it ever asked
                continue
            self._in_a_row = 0
            result.stepped[row], result.rewards[row] = True, steps.last_rewards[number]
            result.truncated[row] = steps.interrupted[number]
            result.terminated[row] = not steps.interrupted[number]
            _copy(steps.last_observations, number, result.last, row)
        self._asking = []
        for number, agent in enumerate(steps.ids.tolist()):
            row = self._row_of.get(agent, _NOBODY)
            if row != _NOBODY:
                result.stepped[row], result.rewards[row] = True, steps.rewards[number]
            elif agent not in steps.ended_ids:  # an agent that ended in the same message is told to do nothing
                row = self._row_of[agent] = self._find_free_row(len(steps.ids))
            self._asking.append(row)
            if row != _NOBODY:
                result.acting[row], result.masks[row] = True, steps.masks[number]
                _copy(steps.observations, number, result.observations, row)

    def _find_free_row(self, agents: int) -> int:
        taken = set(self._row_of.values())
        for row in self._rows:
            if row not in taken:
                return row
        raise SceneError(
            f"num_agents: got {max(agents, self.size + 1)} agents at once in {self._options.executable.name}; expected "
            f"at most {self.size}, {'as set' if self._options.num_agents else 'as at the start'}. Set "
            "env_config.num_agents to the most that there can be."
        )


def _zeros(space: Any, rows: int) -> Any:
    if hasattr(space, "spaces"):
        return {name: _zeros(box, rows) for name, box in space.spaces.items()}
    return np.zeros((rows, *space.shape), space.dtype)


def _copy(source: Any, number: int, target: Any, row: int) -> None:
    if isinstance(source, dict):
        for name, rows in source.items():
            target[name][row] = rows[number]
    else:
        target[row] = source[number]
