"""Maps one player's agents to rows of the vector environment, and restarts a player that failed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.unity.agent_messages import Steps, encode_actions, encode_idle_action
from envs.unity.behavior import Behavior
from envs.unity.options import MAX_RESTARTS, Options
from envs.unity.player import Player, PlayerError, SceneError

_NOBODY = -1


class Result:
    """Result of a vector step, filled in row by row as the players' messages arrive."""

    def __init__(self, behavior: Behavior, rows: int) -> None:
        space = behavior.observation_space
        masks = sum(behavior.branches)
        self.observations, self.last = (_zeros(space, rows) for _ in range(2))
        self.rewards = np.zeros(rows)
        self.terminated, self.truncated, self.acting, self.stepped, self.lost = np.zeros((5, rows), np.bool_)
        self.masks = np.ones((rows, masks), np.bool_)

    def info(self) -> dict[str, Any]:
        """Returns the `info` of the vector environment."""
        found = {"acting": self.acting, "stepped": self.stepped, "lost": self.lost}
        if self.masks.size:
            found["action_mask"] = self.masks
        ended = self.terminated | self.truncated
        return {**found, "final_obs": self.last, "_final_obs": ended} if ended.any() else found


class PlayerRows:
    """A player and the rows of its agents; a player that fails is restarted.

    Attributes:
        player: The running player.
        size: Number of rows.
        restarts: Number of restarts so far.
        faults: Reason of each restart since `take_faults` was last called.
    """

    def __init__(self, options: Options, *, number: int, worker: int, begin: int) -> None:
        self._options = options
        self._number = number
        self._worker = worker
        self.restarts = 0
        self._in_a_row = 0
        self.faults = list[str]()
        self.player = self._start()
        # Agents present at the start; others may appear when some have left.
        self.size = options.num_agents or max(1, len(self.player.steps().ids))
        self._rows = range(begin, begin + self.size)
        self._row_of: dict[int, int] = {}
        self._asking: list[int] = []
        self._is_fresh = True

    def begin_episodes(self, result: Result) -> None:
        """Begins an episode of every agent; a player that has just started has done so already."""
        try:
            steps = self.player.steps() if self._is_fresh else self.player.begin()
        except PlayerError as error:
            steps = self._restart(error)
        self._row_of = {}
        self._is_fresh = False
        self._take(steps, result)

    def send(self, continuous: NDArray[np.float32], discrete: NDArray[np.int64]) -> None:
        """Sends the actions (N, …) of the rows that requested one; agents without a row idle."""
        self._is_fresh = False
        rows = [row for row in self._asking if row != _NOBODY]
        wires = iter(encode_actions(self.player.behavior, continuous[rows], discrete[rows]) if rows else ())
        idle = encode_idle_action(self.player.behavior) if len(rows) < len(self._asking) else None
        self.player.send([idle if row == _NOBODY else next(wires) for row in self._asking])

    def receive(self, result: Result) -> None:
        """Receives the player's next message; restarts a player that failed."""
        try:
            steps = self.player.receive()
        except PlayerError as error:
            result.lost[list(self._row_of.values())] = True
            steps = self._restart(error)
            self._row_of = {}
        self._take(steps, result)

    def _restart(self, error: PlayerError) -> Steps:
        """Restarts the player and returns its first steps.

        Raises:
            PlayerError: The player has failed too often in a row.
        """
        while True:
            self.faults.append(f"{str(error).splitlines()[0]} Its log: {error.log}")
            if self._in_a_row == MAX_RESTARTS:
                raise PlayerError(
                    f"{error}\nIt was restarted {MAX_RESTARTS} times before, and no episode ended in between.",
                    log=error.log,
                ) from error
            self.restarts = self.restarts + 1
            self._in_a_row = self._in_a_row + 1
            try:
                self.player = self._start()
                return self.player.steps()
            except PlayerError as another:
                error = another

    def _start(self) -> Player:
        """Starts a player, with another seed after each restart: the same seed might crash again."""
        return Player(self._options, number=self._number, worker=self._worker, restart=self.restarts)

    def _take(self, steps: Steps, result: Result) -> None:
        for number, agent in enumerate(steps.ended_ids.tolist()):
            row = self._row_of.pop(agent, None)
            if row is None:  # its episode ended before it requested an action
                continue
            self._in_a_row = 0
            result.stepped[row] = True
            result.rewards[row] = steps.last_rewards[number]
            result.truncated[row] = steps.interrupted[number]
            result.terminated[row] = not steps.interrupted[number]
            _copy(steps.last_observations, number, result.last, row)
        self._asking = []
        for number, agent in enumerate(steps.ids.tolist()):
            row = self._row_of.get(agent, _NOBODY)
            if row != _NOBODY:
                result.stepped[row] = True
                result.rewards[row] = steps.rewards[number]
            elif agent not in steps.ended_ids:  # an agent whose episode ended in the same message idles
                row = self._row_of[agent] = self._find_free_row(len(steps.ids))
            self._asking.append(row)
            if row != _NOBODY:
                result.acting[row] = True
                result.masks[row] = steps.masks[number]
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
