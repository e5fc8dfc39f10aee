"""What a DeepRacer job changes of RLlib's PPO: runner, learner, network, and rollouts counted in episodes."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig

from envs.deepracer.racing import read_options
from runtime.deepracer.learner import RacingLearner
from runtime.deepracer.network import network_settings
from runtime.deepracer.runner import RacingRunner
from runtime.environments import EnvSpec
from runtime.hyperparameters import JobConfig

_EPISODES, _MINIBATCH = 20, 64
# Of an iteration, by the network: what a trainer of the community's time could keep in memory.
_MOST_STEPS = {"DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": 10_000}
_MOST_STEPS_OF_LARGER = 3_000


def configure_racing(rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
    """Changes RLlib's config for camera cars.

    Args:
        rllib: Changed.
        config: The job's settings.
        env: Its environment.

    Returns:
        Settings of the network, for `model_config`.
    """
    settings = config.algorithm
    metadata = read_options(**env.config).metadata
    most_steps = _MOST_STEPS.get(metadata.network, _MOST_STEPS_OF_LARGER)
    rollout: dict[str, Any] = {
        "episodes": settings.get("episodes_per_iteration", _EPISODES),
        "most_steps": settings.get("most_steps_per_iteration", most_steps),
    }
    if settings.get("epsilon_greedy") is not None:
        rollout["epsilon"] = settings["epsilon_greedy"], settings.get("epsilon_steps", 10_000)
    rllib.environment(env_config={**env.config, **rollout})
    # A worker without an episode would have nothing to do.
    workers = min(rllib.num_env_runners, rollout["episodes"])
    rllib.env_runners(env_runner_cls=RacingRunner, num_env_runners=workers)
    # A rollout is one sample() of every runner, whatever its steps; RLlib wants no minibatch above its batch of 1.
    rllib.training(
        learner_class=RacingLearner,
        train_batch_size_per_learner=1,
        minibatch_size=1,
        learner_config_dict={
            "vf_loss": settings.get("vf_loss", "mse"),
            "minibatch_size": settings.get("minibatch_size", _MINIBATCH),
        },
    )
    return {**network_settings(metadata), **config.model}
