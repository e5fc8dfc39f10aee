"""Spaces as policies take them: images with their channels last, rows of numbers, and one kind of action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from runtime.environments.adapting import adapt, flat_actions
from tests.toy_envs import BrightSide


class Echo(gymnasium.Env[Any, Any]):
    """Keeps the last action, and observes what it is told to."""

    def __init__(self, action: gymnasium.Space[Any], observation: gymnasium.Space[Any]) -> None:
        self.action_space = action
        self.observation_space = observation
        self.taken: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.taken = action
        return self.observation_space.sample(), 0.0, False, False, {}


SMALL = Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (Box(0, 255, (50, 60, 3), np.uint8), (50, 60, 3)),
        (Box(0, 255, (4, 84, 84), np.uint8), (84, 84, 4)),
        (Box(0, 9, (7, 7, 3), np.uint8), (7, 7, 3)),
        (Box(0, 1, (2, 2, 5), np.float32), (20,)),
        (Box(0, 1, (4, 5), np.float32), (20,)),
        (Box(0, 1, (), np.float32), (1,)),
        (Dict({"a": Discrete(3), "b": SMALL}), (5,)),
    ],
)
def test_observations_are_images_or_rows(space: gymnasium.Space[Any], shape: tuple[int, ...]) -> None:
    env = adapt(Echo(Discrete(2), space))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == shape
    assert observation.dtype in (np.float32, np.float64)
    assert env.observation_space.contains(observation)


def test_stacked_frames_keep_their_pixels() -> None:
    first, last = BrightSide(16, is_channels_first=True), adapt(BrightSide(16, is_channels_first=True))
    theirs, _ = first.reset(seed=4)
    ours, _ = last.reset(seed=4)
    np.testing.assert_array_equal(ours[:, :, 0], theirs[0])


@pytest.mark.parametrize(
    ("space", "counts"),
    [
        (MultiBinary(3), [2, 2, 2]),
        (Tuple([Discrete(3, start=1), MultiDiscrete([2, 4])]), [3, 2, 4]),
        (Dict({"move": Discrete(5), "buttons": Tuple([MultiBinary(2), Discrete(2)])}), [2, 2, 2, 5]),
    ],
)
def test_whole_numbers_become_one_multidiscrete_action(space: gymnasium.Space[Any], counts: list[int]) -> None:
    env = adapt(Echo(space, SMALL))
    assert isinstance(env.action_space, MultiDiscrete)
    assert env.action_space.nvec.tolist() == counts
    env.reset()
    env.step(np.array(counts) - 1)  # the highest of each, which the environment's own space holds
    env.step(np.zeros(len(counts), np.int64))


def test_each_number_arrives_where_it_belongs() -> None:
    bare = Echo(Tuple([Discrete(3, start=1), MultiDiscrete([2, 4])]), SMALL)
    env = adapt(bare)
    env.reset()
    env.step(np.array([2, 1, 3]))
    assert bare.taken[0] == 3
    assert bare.taken[1].tolist() == [1, 3]


def test_boxes_become_one_box_with_their_bounds() -> None:
    bare = Echo(Dict({"gas": Box(0, 1, (1,), np.float32), "wheel": Box(-2, 2, (2,), np.float32)}), SMALL)
    env = adapt(bare)
    assert isinstance(env.action_space, Box)
    assert env.action_space.low.tolist() == [0, -2, -2]
    env.reset()
    env.step(np.array([0.5, -1.5, 2], np.float32))
    assert bare.taken["gas"].tolist() == [0.5]
    assert bare.taken["wheel"].tolist() == [-1.5, 2]


@pytest.mark.parametrize(("given", "taken"), [([0.2, 4.5], [0, 4]), ([2.6, -3.0], [3, 2]), ([99.0, 7.51], [10, 8])])
def test_a_box_of_whole_numbers_takes_rounded_floats(given: list[float], taken: list[int]) -> None:
    bare = Echo(Box(np.array([0, 2], np.int8), np.array([10, 8], np.int8), dtype=np.int8), SMALL)
    env = adapt(bare)
    assert env.action_space == Box(np.array([0, 2], np.float32), np.array([10, 8], np.float32))
    env.reset(seed=0)
    env.step(np.array(given, np.float32))  # checked by the environment
    np.testing.assert_array_equal(bare.taken, taken)


def test_numbers_and_choices_together_are_not_one_action() -> None:
    mixed = Tuple([SMALL, Discrete(2)])
    assert flat_actions(mixed) is None
    assert flat_actions(Text(3)) is None
    assert adapt(Echo(mixed, SMALL)).action_space is mixed
