"""SAC's settings for DeepRacer: a network and a replay buffer that fit camera pictures."""

from __future__ import annotations

from envs.deepracer.metadata import Metadata
from runtime.families.deepracer.network import network_settings
from runtime.settings.schema import JobConfig

# What of DeepRacer's networks is a setting; the rest is PPO's, whose value function is a network of its own.
_OF_NETWORK = ("conv_filters", "conv_activation", "head_fcnet_hiddens", "head_fcnet_activation")
# Batch and discount are DeepRacer's and the community's. A picture takes 19,200 bytes of the buffer. An update takes
# longer than many steps of a car, so that the ratio of the two is what a training's duration depends on.
_DEFAULTS: dict[str, object] = {
    "config.train_batch_size": 64,
    "config.gamma": 0.99,
    "config.buffer_size": 50_000,
    "config.training_intensity": 16.0,
    "config.num_envs_per_env_runner": 4,
    "config.metrics_num_episodes_for_smoothing": 20,
}
# Settings that cars do not have.
WITHOUT_EFFECT = ("observation_filter", "gym_env_vectorize_mode")


def fit_to_camera(config: JobConfig, metadata: Metadata) -> JobConfig:
    """Sets what neither the user nor a preset set: the metadata's network, and a replay buffer for pictures."""
    network = network_settings(metadata)
    wanted = {**_DEFAULTS, **{f"config.model.{name}": network[name] for name in _OF_NETWORK}}
    changes = {path: value for path, value in wanted.items() if config.is_default(path)}
    return config.replace(changes, source=f"default for {config.env}")


def find_misfits(metadata: Metadata, *, tracks: int) -> list[str]:
    """Returns a line for each of a job's settings with which SAC does not train."""
    wrong = []
    if metadata.actions is not None:
        wrong.append(
            "model_metadata.action_space: got a list of discrete actions with rl.training.run=SAC; expected continuous "
            "ones, an object of steering_angle and speed with high and low. Set rl.training.run=PPO for a list."
        )
    elif metadata.source.get("training_algorithm", "sac") != "sac":
        wrong.append(
            f"model_metadata.training_algorithm: got {metadata.algorithm!r} with rl.training.run=SAC; expected 'sac'. "
            "Change it, or set rl.training.run=PPO."
        )
    if metadata.lidar is not None:
        wrong.append(
            f"model_metadata.sensor: got {', '.join(metadata.sensors)} with rl.training.run=SAC; expected a camera "
            "alone. Leave the LIDAR out, or set rl.training.run=PPO."
        )
    if tracks > 1:
        wrong.append(f"track: got {tracks} tracks with rl.training.run=SAC; expected one. Name one, or train with PPO.")
    return wrong
