"""Observations and actions as policies take them: a Box of numbers or an image, and one kind of action."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray

from runtime.environments.faults import own_class
from runtime.environments.masking import MaskedObservations
from runtime.errors import UserError
from runtime.policies.spaces import ACTION_MASK

_LEAST_SIDE = 3  # pixels; less is a table of numbers
_MOST_CHANNELS = 8


def adapt(env: gymnasium.Env[Any, Any], *, name: str | None = None) -> gymnasium.Env[Any, Any]:
    """Wraps an environment so that a network can take its observations and give its actions.

    Observations become a float Box: images (height, width, channels) stay images, all else becomes a row of numbers.
    MultiBinary actions, and a Dict or Tuple of whole numbers, become MultiDiscrete; a Dict or Tuple of Boxes becomes a
    Box, and a Box of whole numbers one of floats, which are rounded. Other actions stay as they are. The entry
    `action_mask` of a Dict comes last in the row, whose space is then a MaskedBox.

    Args:
        env: The environment.
        name: Its name, for messages; its class's if None.

    Raises:
        UserError: The observations cannot be made a row of numbers, as texts and graphs cannot, or the mask is not one
            of the actions.
    """
    space = env.observation_space
    if isinstance(space, Dict) and ACTION_MASK in space.spaces:
        env = MaskedObservations(env, name or own_class(env).__name__)
    elif not is_image(space) and not (isinstance(space, Box) and len(space.shape) == 1):
        env = _flatten(env)
    elif has_channels_first(space):
        env = _ChannelsLast(env)
    if env.observation_space.dtype not in (np.float32, np.float64):  # whole numbers, as of images and one-hot codes
        env = gymnasium.wrappers.DtypeObservation(env, np.float32)
    flat = flat_actions(env.action_space)
    return env if flat is None or flat is env.action_space else _FlatActions(env, flat)


def _flatten(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    with contextlib.suppress(NotImplementedError):  # of a package's own kind of space
        flat: gymnasium.Env[Any, Any] = gymnasium.wrappers.FlattenObservation(env)
        if isinstance(flat.observation_space, Box):
            return flat
    raise UserError(
        f"environment {own_class(env).__name__}: got the observation space {env.observation_space}; expected a Box, "
        "Discrete, MultiDiscrete or MultiBinary one, or a Dict or Tuple of them. Wrap it; MiniGrid-v0 does so."
    )


def is_image(space: gymnasium.Space[Any] | None) -> bool:
    """Whether observations are images: (height, width, channels), or with the channels first."""
    return isinstance(space, Box) and len(space.shape) == 3 and min(sorted(space.shape)[1:]) >= _LEAST_SIDE


def has_channels_first(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are images as (channels, height, width)."""
    shape = space.shape or ()
    return is_image(space) and shape[0] <= _MOST_CHANNELS < min(shape[1:])


class _ChannelsLast(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Images as (height, width, channels), of an environment that has the channels first, as stacked frames have."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        low, high = (np.moveaxis(side, 0, -1) for side in (space.low, space.high))
        self.observation_space = Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> NDArray[Any]:
        """Moves the channels of an image to the end."""
        return np.moveaxis(np.asarray(observation), 0, -1)


def flat_actions(space: gymnasium.Space[Any]) -> gymnasium.Space[Any] | None:
    """Returns the Box, Discrete or MultiDiscrete space that stands for an action space; None if none can."""
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.integer):
        return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    if isinstance(space, Box | Discrete | MultiDiscrete):
        return space
    parts = list(_leaves(space))
    if parts and all(isinstance(part, Discrete | MultiDiscrete | MultiBinary) for part in parts):
        return MultiDiscrete(np.concatenate([_counts(part) for part in parts]))
    if parts and all(isinstance(part, Box) and np.issubdtype(part.dtype, np.floating) for part in parts):
        sides = ([getattr(part, side).ravel() for part in parts] for side in ("low", "high"))
        low, high = (np.concatenate(side).astype(np.float32) for side in sides)
        return Box(low, high, dtype=np.float32)
    return None


def _leaves(space: gymnasium.Space[Any]) -> Iterator[gymnasium.Space[Any]]:
    """Yields the spaces that a Dict or Tuple is made of, in order; any other space itself."""
    if isinstance(space, Dict | Tuple):
        for part in space.spaces.values() if isinstance(space, Dict) else space.spaces:
            yield from _leaves(part)
    else:
        yield space


def _counts(space: Any) -> NDArray[np.int64]:
    if isinstance(space, Discrete):
        return np.array([space.n])
    return np.full(int(np.prod(space.shape)), 2) if isinstance(space, MultiBinary) else space.nvec.ravel()


class _FlatActions(gymnasium.ActionWrapper[Any, Any, Any]):
    """Takes actions as one array, and gives the environment what its own space holds.

    Args:
        env: The environment.
        flat: What `flat_actions` returned for its action space.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], flat: gymnasium.Space[Any]) -> None:
        super().__init__(env)
        self.action_space = flat

    def action(self, action: Any) -> Any:
        """Returns the environment's own action."""
        return _rebuild(self.env.action_space, iter(np.asarray(action).ravel()))


def _rebuild(space: Any, numbers: Iterator[Any]) -> Any:
    """Takes as many numbers as a space has, and returns them as an action of it."""
    if isinstance(space, Dict):
        return {name: _rebuild(part, numbers) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_rebuild(part, numbers) for part in space.spaces)
    if isinstance(space, Discrete):
        return np.int64(next(numbers)) + np.int64(space.start)
    taken: NDArray[Any] = np.array([next(numbers) for _ in range(int(np.prod(space.shape)))]).reshape(space.shape)
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.integer):
        taken = np.clip(np.rint(taken), space.low, space.high)
    start: Any = space.start if isinstance(space, MultiDiscrete) else 0
    return taken.astype(space.dtype) + start
