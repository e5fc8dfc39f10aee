"""Configures RLlib's PPO for Unity: the env runner, and a network that fits the scene's sensors."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig

from envs.unity.behavior import Behavior
from envs.unity.vector_env import UnityVectorEnv
from runtime.environments.spec import EnvSpec
from runtime.families.unity.env_runner import UnityRunner
from runtime.families.unity.preparation import sample_timeout_s
from runtime.families.unity.scene import count_players, probe_scene
from runtime.settings.schema import JobConfig

# Convolutions [filters, kernel, stride]: ML-Agents' own of its `simple` encoder, and smaller ones for smaller pictures.
_FILTERS = [[16, 8, 4, "valid"], [32, 4, 2, "valid"]]
_SMALLEST = 20
_FILTERS_OF_SMALL = [[16, 3, 1, "valid"], [32, 3, 1, "valid"]]
_HIDDENS = [128]


def configure_ppo(rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
    """Changes RLlib's config for the agents of a scene.

    Args:
        rllib: RLlib's config, changed in place.
        config: Settings of the job.
        env: Environment of the job.

    Returns:
        Settings of the network, for `model_config`.
    """
    least_s = sample_timeout_s(env.config)
    rllib.env_runners(env_runner_cls=UnityRunner, sample_timeout_s=max(least_s, rllib.sample_timeout_s))
    behavior = probe_scene(env.config, players=count_players(config)).behavior
    return {**_network(behavior), **config.algorithm.model.given(), "action_mask": sum(behavior.branches) or None}


def no_video_reason(scene: UnityVectorEnv) -> str | None:
    """Returns why a scene cannot be recorded, or None: only the camera of a single agent can be."""
    if not scene.behavior.pictures:
        return "Unity draws on its own screen, and the scene's agents see no pictures"
    return f"the scene has {scene.num_envs} agents, each with its own picture" if scene.num_envs > 1 else None


def _network(behavior: Behavior) -> dict[str, Any]:
    """Returns network settings: convolutions for images, and an embedding of the other sensors if there are any."""
    if len(behavior.pictures) != 1:
        return {}
    shape = behavior.shapes[behavior.pictures[0]]
    filters = _FILTERS if min(shape[:2]) >= _SMALLEST else _FILTERS_OF_SMALL
    found: dict[str, Any] = {
        "conv_filters": filters,
        "conv_activation": "relu",
        "head_fcnet_hiddens": _HIDDENS,
        "head_fcnet_activation": "relu",
    }
    others = behavior.count_numbers_beside_pictures()
    if others:
        lidar = {"picture_shape": list(shape), "scan_size": others, "is_picture_first": True, "own_layers": 1}
        found |= {"lidar": lidar, "pixel_scale": 1.0}
    return found
