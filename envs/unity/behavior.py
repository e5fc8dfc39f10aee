"""A behavior of a Unity scene: the sensors, actions and Gymnasium spaces that its agents share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.unity.protocol import BehaviorSpec

_PICTURE_DIMENSIONS = 3
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Behavior:
    """The sensors and actions of the agents of one behavior.

    Attributes:
        shapes: Shape of each sensor's observation.
        continuous: Number of continuous actions, each in ±1.
        branches: Number of choices of each discrete action.
        dict_observations: Whether an observation is a dict of sensors instead of one array.
    """

    shapes: tuple[tuple[int, ...], ...]
    continuous: int
    branches: tuple[int, ...]
    dict_observations: bool = False

    @classmethod
    def of_spec(cls, spec: BehaviorSpec, *, dict_observations: bool = False) -> Behavior:
        """Reads the specification that the player sends.

        Raises:
            ValueError: The behavior has no sensor or no action.
        """
        shapes = tuple(tuple(map(int, sensor.shape)) for sensor in spec.observation_specs)
        action = spec.action_spec
        branches = tuple(map(int, action.discrete_branches))
        if not shapes or not (action.continuous_size or branches):
            raise ValueError("the scene: got a behavior without observations or actions; expected some of both.")
        return cls(shapes, int(action.continuous_size), branches, dict_observations)

    @cached_property
    def pictures(self) -> tuple[int, ...]:
        """Indices of the sensors that are cameras."""
        return tuple(k for k, shape in enumerate(self.shapes) if len(shape) == _PICTURE_DIMENSIONS)

    @cached_property
    def observation_space(self) -> spaces.Space[Any]:
        """A lone camera's picture; else all sensors in one row of numbers, pictures first; or a dict of sensors."""
        boxes = [
            spaces.Box(0.0, 1.0, shape, np.float32)
            if k in self.pictures
            else spaces.Box(-np.inf, np.inf, shape, np.float32)
            for k, shape in enumerate(self.shapes)
        ]
        if self.dict_observations:
            return spaces.Dict({f"sensor_{k}": box for k, box in enumerate(boxes)})
        return boxes[0] if self.is_one_picture else spaces.Box(-np.inf, np.inf, (sum(self.sensor_sizes),), np.float32)

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
        """Returns the first picture (H, W, C) of one observation."""
        number = self.pictures[0]
        if self.dict_observations:
            picture: Floats = observation[f"sensor_{number}"]
            return picture
        return np.asarray(observation).ravel()[: self.sensor_sizes[number]].reshape(self.shapes[number])

    def count_numbers_beside_pictures(self) -> int:
        """Counts the numbers of the sensors that are not cameras."""
        return sum(size for k, size in enumerate(self.sensor_sizes) if k not in self.pictures)

    @cached_property
    def sensor_sizes(self) -> list[int]:
        """Size of each sensor's observation, in numbers."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def is_one_picture(self) -> bool:
        """Whether agents have one sensor, and it is a camera."""
        return len(self.shapes) == 1 and bool(self.pictures)

    def split(self, actions: Any) -> tuple[Floats, NDArray[np.int64]]:
        """Splits actions (B, …) of the action space into (B, continuous) and (B, branches)."""
        if self.continuous and self.branches:
            return np.asarray(actions[0], np.float32), np.asarray(actions[1], np.int64)
        rows = np.asarray(actions)
        if self.continuous:
            return rows.astype(np.float32), np.zeros((len(rows), 0), np.int64)
        return np.zeros((len(rows), 0), np.float32), rows.reshape(len(rows), -1).astype(np.int64)
