"""`gym_unity.envs.UnityToGymWrapper` as scripts of 2020 call it, over mlagents-envs' own environment."""

from __future__ import annotations

import contextlib
import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unity_stand_in import build_player

with contextlib.redirect_stderr(io.StringIO()):  # gym 0.26.2 says at import that it is no longer maintained
    from runtime.compat.gym_unity import ActionFlattener, UnityGymException, UnityToGymWrapper

pytestmark = pytest.mark.filterwarnings(
    # mlagents-envs 0.28.0 compares versions with distutils, which Python 3.11 still has.
    "ignore:distutils Version classes are deprecated:DeprecationWarning",
    "ignore:The distutils package is deprecated:DeprecationWarning",
)


@pytest.fixture
def wrapped(tmp_path: Path) -> Any:
    """Wraps scenes of the stand-in, and ends them."""
    from mlagents_envs.environment import UnityEnvironment

    made: list[Any] = []

    def begin(scene: str, **options: Any) -> Any:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made.append(UnityEnvironment(str(build_player(tmp_path, scene)), base_port=port, no_graphics=True))
        return UnityToGymWrapper(made[-1], **options)

    yield begin
    for env in made:
        env.close()


def test_basic_is_played_with_the_calls_of_old_gym(wrapped: Any) -> None:
    env = wrapped("Basic")
    assert (env.action_space.n, env.observation_space.shape) == (3, (20,))
    assert np.flatnonzero(env.reset()).tolist() == [10]
    results = [env.step(2) for _ in range(7)]
    assert sum(reward for _, reward, _, _ in results) == pytest.approx(0.93)
    assert [done for _, _, done, _ in results] == [False] * 6 + [True]
    assert np.flatnonzero(results[-1][0]).tolist() == [17]
    with pytest.raises(
        UnityGymException, match=r"step: got an action after the episode's end; expected reset\(\) first"
    ):
        env.step(2)
    assert np.flatnonzero(env.reset()).tolist() == [10]


def test_pictures_are_floats_bytes_or_a_list(wrapped: Any) -> None:
    floats, numbers, several = (
        wrapped("GridWorld", **options) for options in ({}, {"uint8_visual": True}, {"allow_multiple_obs": True})
    )
    picture, whole, (alone,) = floats.reset(), numbers.reset(), several.reset()
    assert picture.shape == alone.shape == (40, 40, 3)
    assert set(np.unique(picture)) == {0.0, 1.0}
    assert (whole.dtype, set(np.unique(whole))) == (np.uint8, {0, 255})
    assert numbers.render() is whole
    assert numbers.observation_space.contains(whole)
    assert several.observation_space.contains((alone,))


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("3DBall", r"agents: got 12; expected one"),
        ("Two", r"behaviors: got Basic\?team=0, Walker\?team=0; expected one"),
        ("Hybrid", r"agents: got 2; expected one"),
    ],
)
def test_what_it_cannot_do_is_refused_with_what_can(wrapped: Any, scene: str, message: str) -> None:
    with pytest.raises(UnityGymException, match=message + r"\. Train Unity-v0 instead\."):
        wrapped(scene)


def test_branches_are_numbered_with_the_last_one_first() -> None:
    flattener = ActionFlattener([3, 2])
    assert flattener.action_space.n == 6
    assert [flattener.lookup_action(action) for action in range(6)] == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
