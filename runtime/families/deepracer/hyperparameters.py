"""A training's settings under DeepRacer's names, as the content of ip/hyperparameters.json.

Source of the names: DeepRacer's simulation application 6.0.5, `M/sagemaker_graph_manager.py`.
"""

from __future__ import annotations

from typing import Any

from runtime.ppo.settings import PPOSettings
from runtime.rllib.algorithm_settings import SACSettings
from runtime.settings.schema import JobConfig

# The original's values for settings without effect: epsilon of an unused exploration type, limits that are not set.
_EPSILON = 0.05
_NO_BOUND = 100_000


def describe_hyperparameters(config: JobConfig) -> dict[str, Any]:
    """Returns the settings of a training by PPO or SAC."""
    algorithm = config.algorithm
    own = _of_sac(algorithm) if isinstance(algorithm, SACSettings) else _of_ppo(PPOSettings.of(config))
    stop = config.stop
    return {
        **own,
        "stack_size": 1,
        "term_cond_avg_score": _NO_BOUND if stop.episode_reward_mean is None else stop.episode_reward_mean,
        "term_cond_max_episodes": _NO_BOUND if stop.episodes_total is None else stop.episodes_total,
    }


def _of_ppo(settings: PPOSettings) -> dict[str, Any]:
    epsilon = settings.epsilon_greedy
    return {
        "batch_size": settings.minibatch_size,
        "beta_entropy": _first(settings.entropy_coeff),
        "discount_factor": settings.gamma,
        "e_greedy_value": _EPSILON if epsilon is None else epsilon,
        "epsilon_steps": settings.epsilon_steps,
        "exploration_type": "categorical" if epsilon is None else "e-greedy",
        "loss_type": "huber" if settings.vf_loss == "huber" else "mean squared error",
        "lr": _first(settings.lr),
        "num_episodes_between_training": settings.episodes_per_iteration,
        "num_epochs": settings.num_epochs,
    }


def _of_sac(settings: SACSettings) -> dict[str, Any]:
    return {
        "batch_size": settings.train_batch_size,
        "discount_factor": settings.gamma,
        "loss_type": "huber",  # of RLlib's Q functions
        "lr": _first(settings.critic_lr),
        "sac_alpha": settings.initial_alpha,
    }


def _first(value: Any) -> Any:
    """Returns the initial value of a number or of a schedule of [timestep, value]."""
    return value[0][1] if isinstance(value, list | tuple) else value
