"""What a DeepRacer job changes of RLlib's PPO: runner, learner, network, and rollouts counted in episodes."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig

from envs.deepracer.racing import read_options
from runtime.environments.spec import EnvSpec
from runtime.families.deepracer.env_runner import RacingRunner
from runtime.families.deepracer.learner import RacingLearner
from runtime.families.deepracer.network import network_settings
from runtime.settings.resolve import JobConfig

_EPISODES, _MINIBATCH, _EPSILON_STEPS = 20, 64, 10_000
# The original's own values where a setting is of no effect: epsilon without exploration by it, bounds that nobody set.
_EPSILON, _NO_BOUND = 0.05, 100_000
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
        rollout["epsilon"] = settings["epsilon_greedy"], settings.get("epsilon_steps", _EPSILON_STEPS)
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


def describe_hyperparameters(config: JobConfig) -> dict[str, Any]:
    """A training's settings under DeepRacer's names, as the content of ip/hyperparameters.json.

    Source of the names: DeepRacer's simulation application 6.0.5, `M/sagemaker_graph_manager.py`.
    """
    settings, stop, defaults = config.algorithm, config.stop, PPOConfig()
    epsilon = settings.get("epsilon_greedy")
    return {
        "batch_size": settings.get("minibatch_size", _MINIBATCH),
        "beta_entropy": _first(settings.get("entropy_coeff", defaults.entropy_coeff)),
        "discount_factor": settings.get("gamma", defaults.gamma),
        "e_greedy_value": _EPSILON if epsilon is None else epsilon,
        "epsilon_steps": settings.get("epsilon_steps", _EPSILON_STEPS),
        "exploration_type": "categorical" if epsilon is None else "e-greedy",
        "loss_type": "huber" if settings.get("vf_loss") == "huber" else "mean squared error",
        "lr": _first(settings.get("lr", defaults.lr)),
        "num_episodes_between_training": settings.get("episodes_per_iteration", _EPISODES),
        "num_epochs": settings.get("num_epochs", defaults.num_epochs),
        "stack_size": 1,
        "term_cond_avg_score": stop.get("episode_reward_mean", _NO_BOUND),
        "term_cond_max_episodes": stop.get("episodes_total", _NO_BOUND),
    }


def _first(value: Any) -> Any:
    """A number; of a schedule of [timestep, value] the one that it begins with."""
    return value[0][1] if isinstance(value, list | tuple) else value
