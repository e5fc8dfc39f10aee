"""Registers `Atari-v0` and `MiniGrid-v0`: environments of other packages, with the wrappers that PPO is used with."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from numpy.typing import NDArray

ATARI_ID = "Atari-v0"
MINIGRID_ID = "MiniGrid-v0"


def register_preprocessed() -> None:
    """Registers the ids with Gymnasium; a second call changes nothing."""
    for name, maker in ((ATARI_ID, "make_atari"), (MINIGRID_ID, "make_minigrid")):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"envs.preprocessed:{maker}")


def make_atari(
    game: str = "Pong", *, frames: int = 4, sticky: float = 0.25, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Makes an Atari game as Machado et al. 2018 play it: gray, 84 by 84 pixels, four frames a step, sticky actions.

    Args:
        game: Name in the Arcade Learning Environment, as Breakout.
        frames: Number of the last frames that an observation has.
        sticky: Probability of repeating the last action instead.
        render_mode: As Gymnasium's.

    Returns:
        Observations (frames, 84, 84), uint8.
    """
    _import("ale_py", "atari")
    env = gymnasium.make(
        f"ale_py:ALE/{game}-v5", frameskip=1, repeat_action_probability=sticky, render_mode=render_mode
    )
    return FrameStackObservation(AtariPreprocessing(env, noop_max=0), frames)


def make_minigrid(task: str = "DoorKey-5x5", *, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Makes a MiniGrid task that shows the agent's view of 7 by 7 cells, each as 0 and 1.

    Args:
        task: Name in MiniGrid, as Empty-8x8.
        render_mode: As Gymnasium's.

    Returns:
        Observations (7, 7, 20), uint8: 11 kinds of object, 6 colors and 3 states of a door.
    """
    _import("minigrid", "minigrid")
    return _OneHotView(gymnasium.make(f"minigrid:MiniGrid-{task}-v0", render_mode=render_mode))


def _import(package: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise DependencyNotInstalled(f"{package} is not installed, run `pip install 'smrl[{extra}]'`") from None


class _OneHotView(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The agent's view, without the mission, which is the same in every episode of most tasks."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        from minigrid.wrappers import OneHotPartialObsWrapper

        super().__init__(OneHotPartialObsWrapper(env))
        views = self.env.observation_space["image"]  # type: ignore[index]
        self.observation_space = gymnasium.spaces.Box(0, 1, views.shape, np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """Returns the view of an observation."""
        view: NDArray[np.uint8] = observation["image"]
        return view
