"""`smrl evaluate` of policies of Unity scenes: every agent plays, deterministically."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs import UNITY_ID
from envs.unity.vector_env import UnityVectorEnv
from runtime.policy import ACTION_MASK, Policy
from runtime.stop import StopRequest
from runtime.unity.options import find_scene
from runtime.unity.scene import scene_faults
from runtime.video import Episode


def settle_evaluation(
    chosen: Mapping[str, Any], trained: Mapping[str, Any], channels: Mapping[str, Path], *, logs: Path
) -> dict[str, Any]:
    """Settings of the scene to play: the one that was trained in, or the one that `env` names.

    Args:
        chosen: Of the evaluation.
        trained: Of the training's environment.
        channels: Of the job.
        logs: Where players write.

    Raises:
        UserError: They are wrong.
    """
    settings = dict(trained)
    if chosen.get("env", UNITY_ID) != UNITY_ID:
        settings = {name: value for name, value in settings.items() if name != "file_name"}
        settings["env_name"] = chosen["env"]
    if "seed" in chosen:
        settings["seed"] = chosen["seed"]
    return {"log_folder": str(logs.absolute()), **find_scene(settings, channels, where="the scene to play")}


def play_scene(
    scene: UnityVectorEnv, policy: Policy, stop: StopRequest, *, most_episodes: float, most_steps: float = math.inf
) -> Iterator[Episode]:
    """Plays whole episodes with all agents, and yields them in the order in which they began.

    In that order, because the ones that end first are the shortest, and no fair sample. An episode whose player fails
    is left out.

    Raises:
        UserError: The scene says what it must not.
        PlatformError: Its player fails again and again.
    """
    numbers, following = itertools.count(), 0
    number_of: dict[int, int] = {}
    sums: dict[int, Episode] = {}
    ended: dict[int, Episode | None] = {}
    with scene_faults():
        observations, info = scene.reset()
    played, steps = 0, 0
    while played < most_episodes and steps < most_steps and not stop.is_set:
        acting = np.flatnonzero(info["acting"])
        for row in acting.tolist():
            if row not in number_of:
                number_of[row] = number = next(numbers)
                sums[number] = Episode(0.0, 0)
        with scene_faults():
            actions = _act(policy, scene, observations, info)
            observations, rewards, terminated, truncated, info = scene.step(actions)
        for row in np.flatnonzero(info["lost"]).tolist():
            ended[number_of.pop(row)] = None
        for row in np.flatnonzero(info["stepped"]).tolist():
            number = number_of[row]
            sums[number] = Episode(sums[number].total_reward + float(rewards[row]), sums[number].steps + 1)
            if terminated[row] or truncated[row]:
                ended[number_of.pop(row)] = sums.pop(number)
        while following in ended and played < most_episodes:
            episode = ended.pop(following)
            following += 1
            if episode is not None:
                played, steps = played + 1, steps + episode.steps
                yield episode


def _act(policy: Policy, scene: UnityVectorEnv, observations: Any, info: Mapping[str, Any]) -> Any:
    """Actions (N, …) of all rows; those of rows that did not ask go nowhere."""
    asking = np.flatnonzero(info["acting"])
    masks = info[ACTION_MASK][asking] if policy.takes_masks else None
    chosen = policy.act_many(observations[asking], masks=masks)
    space = scene.action_space
    if isinstance(space, gymnasium.spaces.Tuple):
        actions: Any = tuple(np.zeros(part.shape, part.dtype) for part in space.spaces)
        for rows, values in zip(actions, zip(*chosen, strict=True), strict=True):
            rows[asking] = values
        return actions
    actions = np.zeros(space.shape or (), space.dtype)
    actions[asking] = chosen
    return actions
