"""Configures RLlib's PPO for DeepRacer: env runner, learner, network, and rollouts counted in episodes."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig

from envs.deepracer.racing import read_options
from runtime.environments.spec import EnvSpec
from runtime.families.deepracer.env_runner import RacingRunner
from runtime.families.deepracer.learner import RacingLearner
from runtime.families.deepracer.network import network_settings
from runtime.ppo.settings import PPOSettings
from runtime.settings.schema import JobConfig

# Step limit of an iteration by network, which kept the original trainer within its memory.
_MOST_STEPS = {"DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": 10_000}
_MOST_STEPS_OF_LARGER = 3_000


def configure_ppo(rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
    """Changes RLlib's config for camera cars.

    Args:
        rllib: RLlib's config, changed in place.
        config: Settings of the job.
        env: Environment of the job.

    Returns:
        Settings of the network, for `model_config`.
    """
    settings = PPOSettings.of(config)
    metadata = read_options(**env.config).metadata
    rollout: dict[str, Any] = {
        "episodes": settings.episodes_per_iteration,
        "most_steps": settings.most_steps_per_iteration or _MOST_STEPS.get(metadata.network, _MOST_STEPS_OF_LARGER),
    }
    if settings.epsilon_greedy is not None:
        rollout["epsilon"] = settings.epsilon_greedy, settings.epsilon_steps
    rllib.environment(env_config={**env.config, **rollout})
    # A worker without an episode would have nothing to do.
    workers = min(rllib.num_env_runners, settings.episodes_per_iteration)
    rllib.env_runners(env_runner_cls=RacingRunner, num_env_runners=workers)
    # A rollout is one sample() of every runner, of any number of steps; RLlib wants no minibatch above its batch of 1.
    rllib.training(
        learner_class=RacingLearner,
        train_batch_size_per_learner=1,
        minibatch_size=1,
        learner_config_dict={"vf_loss": settings.vf_loss, "minibatch_size": settings.minibatch_size},
    )
    return {**network_settings(metadata), **settings.model.given()}
