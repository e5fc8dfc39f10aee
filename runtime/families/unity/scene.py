"""Opens scenes, and keeps one open between reading its spaces and the env runner that samples in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from envs.unity.player import PlayerError, SceneError
from envs.unity.vector_env import UnityVectorEnv
from runtime.errors import PlatformError, UserError
from runtime.ppo.settings import PPOSettings
from runtime.settings.schema import JobConfig

_Opened = tuple[dict[str, Any], int, int]
_spare: list[tuple[_Opened, UnityVectorEnv]] = []


def open_scene(settings: Mapping[str, Any], *, players: int = 1, worker: int = 0) -> UnityVectorEnv:
    """Opens a scene, or returns the one that `probe_scene` left open.

    Raises:
        UserError: The settings or the scene are invalid.
        PlatformError: A player does not start.
    """
    asked = dict(settings), players, worker
    if _spare:
        opened, env = _spare.pop()
        if opened == asked:
            return env
        env.close()
    with scene_faults():
        return UnityVectorEnv(players, worker=worker, **settings)


def count_players(config: JobConfig) -> int:
    """Players of each runner."""
    return PPOSettings.of(config).num_envs_per_env_runner


def probe_scene(settings: Mapping[str, Any], *, players: int = 1) -> UnityVectorEnv:
    """Opens a scene to read its spaces, and keeps it open for `open_scene` until `close_probed_scene`.

    A player takes seconds to start, and a job that samples in its main process uses the same one.
    """
    env = open_scene(settings, players=players)  # the probed scene itself, if it is open
    _spare.append(((dict(settings), players, 0), env))
    return env


def close_probed_scene() -> None:
    """Closes the probed scene, if nothing opened it again."""
    while _spare:
        _spare.pop()[1].close()


@contextlib.contextmanager
def scene_faults() -> Iterator[None]:
    """Turns a scene's exceptions into job errors.

    Raises:
        UserError: The scene's settings or data are invalid.
        PlatformError: A player does not start, or fails again and again.
    """
    try:
        yield
    except PlayerError as error:
        raise PlatformError(str(error)) from None
    except SceneError as error:
        raise UserError(str(error)) from None
    except ValueError as error:
        raise UserError(f"rl.training.config.env_config: {error}") from None
