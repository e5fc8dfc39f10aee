"""Action masks of plain environments: the entry `action_mask` of a Dict observation."""

from __future__ import annotations

import contextlib
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary
from gymnasium.spaces.utils import flatten, flatten_space
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.policies.spaces import ACTION_MASK, MaskedBox, count_choices


class MaskedObservations(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes a Dict observation with an action mask one row of numbers: the other entries, then the mask as 0 and 1.

    The mask is part of the row, so that whatever stores, batches or replays observations keeps the two together.

    Args:
        env: Environment with Dict observations that have an entry `action_mask`.
        name: Its name, for messages.

    Raises:
        UserError: The mask is not one of the actions, or there is no other entry, or one that is not numbers.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self._steps = 0
        self._counts = count_choices(env.action_space)
        space = env.observation_space
        assert isinstance(space, Dict)
        problem = mask_problem(space, env.action_space)
        if problem is not None:
            raise UserError(f"environment {name}: got {problem}.")
        self._others = Dict({key: part for key, part in space.spaces.items() if key != ACTION_MASK})
        numbers: gymnasium.Space[Any] = self._others
        if self._others.spaces:
            with contextlib.suppress(NotImplementedError):  # of a package's own kind of space
                numbers = flatten_space(self._others)
        if not isinstance(numbers, Box):
            raise UserError(
                f"environment {name}: got the observation space {space}; expected beside {ACTION_MASK} an entry of "
                "numbers that the policy sees. Wrap the environment."
            )
        self.observation_space = MaskedBox(numbers, sum(self._counts))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Raises:
            UserError: The mask allows no action.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._to_row(observation, must_act=True), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment.

        Raises:
            UserError: The mask allows no action although the episode has not ended.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return self._to_row(observation, must_act=not (terminated or truncated)), reward, terminated, truncated, info

    def _to_row(self, observation: Any, *, must_act: bool) -> NDArray[np.float32]:
        mask = np.asarray(observation[ACTION_MASK]).ravel() != 0
        if mask.shape != (sum(self._counts),):
            raise UserError(
                f"environment {self._name}: got an {ACTION_MASK} of {mask.size} numbers {self._when()}; expected "
                f"{sum(self._counts)}, one for each choice of {self.env.action_space}."
            )
        if must_act and not allows_action(mask[None], self._counts).all():
            raise UserError(
                f"environment {self._name}: got an {ACTION_MASK} that allows no action {self._when()}; expected at "
                "least one allowed action until the episode ends. Allow one, or return terminated=True."
            )
        others = {key: observation[key] for key in self._others.spaces}
        return np.concatenate([flatten(self._others, others), mask]).astype(np.float32)

    def _when(self) -> str:
        return f"after step {self._steps} of an episode" if self._steps else "at a reset"


def allows_action(masks: NDArray[np.bool_], counts: tuple[int, ...]) -> NDArray[np.bool_]:
    """Returns for each of (B, M) masks whether every discrete action has an allowed choice, (B,)."""
    starts = np.cumsum((0, *counts[:-1]))
    return np.asarray(np.logical_or.reduceat(masks, starts, axis=1).all(axis=1))


def mask_problem(observation: Dict, action: gymnasium.Space[Any]) -> str | None:
    """Returns the rule that the space of a mask breaks, with what to do; None if it is one of the actions."""
    mask = observation.spaces[ACTION_MASK]
    size = sum(count_choices(action))
    if not size:
        return (
            f"the observation entry {ACTION_MASK} for the action space {action}; expected Discrete or MultiDiscrete "
            "actions. Give the entry another name to have it as an observation"
        )
    if not isinstance(mask, Box | MultiBinary) or mask.shape != (size,):
        return (
            f"the observation entry {ACTION_MASK} as {mask}; expected a Box or MultiBinary of shape ({size},), a "
            f"number for each choice of {action}"
        )
    return None
