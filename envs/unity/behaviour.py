"""Agents of one behaviour: their spaces, what a message says of them as arrays, and their actions as messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.unity.messages import wire_class
from envs.unity.protocol import BehaviorSpec, process_pixels

_PICTURE_DIMENSIONS = 3
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Steps:
    """What a message says, of D agents that ask for an action and E whose episode has ended.

    Attributes:
        ids: (D,) of the agents that ask; each episode has a new one.
        observations: (D, …), or a dict of them.
        rewards: (D,) since the agent last asked.
        masks: (D, M) true where an action is allowed, all branches side by side; (D, 0) without discrete actions.
        ended_ids: (E,) of agents whose episode ended; one that also asks is told to do nothing.
        last_observations: (E, …).
        last_rewards: (E,).
        interrupted: (E,) true where a step limit ended the episode.
    """

    ids: NDArray[np.int64]
    observations: Any
    rewards: NDArray[np.float64]
    masks: NDArray[np.bool_]
    ended_ids: NDArray[np.int64]
    last_observations: Any
    last_rewards: NDArray[np.float64]
    interrupted: NDArray[np.bool_]


@dataclass(frozen=True)
class Behaviour:
    """What agents of a behaviour see and do.

    Attributes:
        shapes: Of each sensor.
        continuous: How many continuous actions, each in ±1.
        branches: How many choices each discrete action has.
        dict_observations: Whether an observation is a dict of sensors instead of one array.
    """

    shapes: tuple[tuple[int, ...], ...]
    continuous: int
    branches: tuple[int, ...]
    dict_observations: bool = False

    @classmethod
    def of_spec(cls, spec: BehaviorSpec, *, dict_observations: bool = False) -> Behaviour:
        """From what the player says of it.

        Raises:
            ValueError: It has no sensor, or no action.
        """
        shapes = tuple(tuple(map(int, sensor.shape)) for sensor in spec.observation_specs)
        action = spec.action_spec
        branches = tuple(map(int, action.discrete_branches))
        if not shapes or not (action.continuous_size or branches):
            raise ValueError("the scene: got a behaviour without observations or actions; expected some of both.")
        return cls(shapes, int(action.continuous_size), branches, dict_observations)

    @cached_property
    def pictures(self) -> tuple[int, ...]:
        """Numbers of the sensors that are pictures."""
        return tuple(k for k, shape in enumerate(self.shapes) if len(shape) == _PICTURE_DIMENSIONS)

    @cached_property
    def observation_space(self) -> spaces.Space[Any]:
        """One picture as it is; any other sensors as one row of numbers, pictures first; or a dict of sensors."""
        boxes = [
            spaces.Box(0.0, 1.0, shape, np.float32)
            if k in self.pictures
            else spaces.Box(-np.inf, np.inf, shape, np.float32)
            for k, shape in enumerate(self.shapes)
        ]
        if self.dict_observations:
            return spaces.Dict({f"sensor_{k}": box for k, box in enumerate(boxes)})
        return boxes[0] if self._is_one_picture else spaces.Box(-np.inf, np.inf, (sum(self._sizes),), np.float32)

    @cached_property
    def action_space(self) -> spaces.Space[Any]:
        """Box, Discrete, MultiDiscrete, or for hybrid actions a tuple of Box and MultiDiscrete."""
        box = spaces.Box(-1.0, 1.0, (self.continuous,), np.float32)
        if not self.branches:
            return box
        if self.continuous:
            return spaces.Tuple((box, spaces.MultiDiscrete(list(self.branches))))
        return (
            spaces.Discrete(self.branches[0]) if len(self.branches) == 1 else spaces.MultiDiscrete(list(self.branches))
        )

    def picture_of(self, observation: Any) -> Floats:
        """The first picture (H, W, C) of one observation."""
        number = self.pictures[0]
        if self.dict_observations:
            picture: Floats = observation[f"sensor_{number}"]
            return picture
        return np.asarray(observation).ravel()[: self._sizes[number]].reshape(self.shapes[number])

    def count_numbers_beside_pictures(self) -> int:
        """How many numbers the other sensors give."""
        return sum(size for k, size in enumerate(self._sizes) if k not in self.pictures)

    @cached_property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def _is_one_picture(self) -> bool:
        return len(self.shapes) == 1 and bool(self.pictures)

    def read(self, infos: Sequence[Any]) -> Steps:
        """A message's AgentInfoProtos as arrays.

        Raises:
            ValueError: An observation is of another shape than announced, or a number is none.
        """
        asking, ended = [info for info in infos if not info.done], [info for info in infos if info.done]
        return Steps(
            ids=np.array([info.id for info in asking], np.int64),
            observations=self._observe(asking),
            rewards=_rewards(asking),
            masks=self._masks(asking),
            ended_ids=np.array([info.id for info in ended], np.int64),
            last_observations=self._observe(ended),
            last_rewards=_rewards(ended),
            interrupted=np.array([info.max_step_reached for info in ended], np.bool_),
        )

    def _observe(self, infos: list[Any]) -> Any:
        sensors = [self._sense(k, [info.observations[k] for info in infos]) for k in range(len(self.shapes))]
        if self.dict_observations:
            return {f"sensor_{k}": rows for k, rows in enumerate(sensors)}
        if len(sensors) == 1:
            return sensors[0] if self._is_one_picture else sensors[0].reshape(len(infos), self._sizes[0])
        order = sorted(range(len(sensors)), key=lambda k: k not in self.pictures)
        return np.concatenate([sensors[k].reshape(len(infos), self._sizes[k]) for k in order], axis=1)

    def _sense(self, number: int, observations: list[Any]) -> Floats:
        """(B, …) of one sensor."""
        shape = self.shapes[number]
        if observations and observations[0].compression_type:
            rows = [_decompress(one, shape) for one in observations]
            return np.stack(rows).astype(np.float32, copy=False)
        data = b"".join([one.float_data.data for one in observations])
        numbers = np.frombuffer(data, "<f4")
        if numbers.size != len(observations) * math.prod(shape):
            raise ValueError(
                f"sensor {number}: got {numbers.size} numbers of {len(observations)} agents; expected {shape} of each"
            )
        if not np.isfinite(numbers).all():
            raise ValueError(f"sensor {number}: got an observation that is no finite number")
        return np.asarray(numbers, np.float32).reshape(len(observations), *shape)

    def _masks(self, infos: list[Any]) -> NDArray[np.bool_]:
        allowed = np.ones((len(infos), sum(self.branches)), np.bool_)
        for row, info in enumerate(infos):
            if info.action_mask:  # true where forbidden; a player sends none until an agent forbids something
                allowed[row] = ~np.frombuffer(info.action_mask, np.bool_)
        return allowed

    def idle(self) -> Any:
        """The action that does nothing, as a message."""
        return self.to_wire(np.zeros((1, self.continuous), np.float32), np.zeros((1, len(self.branches)), np.int64))[0]

    def to_wire(self, continuous: Floats, discrete: NDArray[np.int64]) -> list[Any]:
        """Actions as messages.

        Args:
            continuous: (D, continuous), in ±1.
            discrete: (D, branches).
        """
        kind = wire_class("AgentActionProto")
        continuous = np.ascontiguousarray(continuous, "<f4")
        both = np.concatenate([continuous, discrete], axis=1).astype("<f4")  # where players before 1.3 look
        messages = []
        for row in range(len(both)):
            message = kind(vector_actions_deprecated=both[row].tobytes(), continuous_actions=continuous[row].tobytes())
            message.discrete_actions.extend(discrete[row].tolist())
            messages.append(message)
        return messages

    def split(self, actions: Any) -> tuple[Floats, NDArray[np.int64]]:
        """Actions (B, …) of the action space as (B, continuous) and (B, branches)."""
        if self.continuous and self.branches:
            return np.asarray(actions[0], np.float32), np.asarray(actions[1], np.int64)
        rows = np.asarray(actions)
        if self.continuous:
            return rows.astype(np.float32), np.zeros((len(rows), 0), np.int64)
        return np.zeros((len(rows), 0), np.float32), rows.reshape(len(rows), -1).astype(np.int64)


def _rewards(infos: list[Any]) -> NDArray[np.float64]:
    """An agent's own reward and its group's, which is 0 without one."""
    rewards = np.array([info.reward + info.group_reward for info in infos], np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError("reward: got one that is no finite number")
    return rewards


def _decompress(observation: Any, shape: tuple[int, ...]) -> Floats:
    """A picture (H, W, C) in 0..1 from one PNG or several, one after the other."""
    try:
        found = process_pixels(observation.compressed_data, shape[2], list(observation.compressed_channel_mapping))
    except Exception as error:  # Pillow raises whatever it likes
        raise ValueError(f"a picture cannot be read: {error}") from None
    if found.shape != shape:
        raise ValueError(f"a picture: got the shape {found.shape}; expected {shape}")
    return np.asarray(found, np.float32)
