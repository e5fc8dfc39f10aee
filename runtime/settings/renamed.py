"""Settings of RLlib 0.8 to 1.6: today's name of each, or why it has no effect any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.settings.types import Setting, coerce

# Old path below rl.training -> today's path, the value unchanged.
RENAMED: dict[str, str] = {
    "config.num_sgd_iter": "config.num_epochs",
    "config.sgd_minibatch_size": "config.minibatch_size",
    "config.lambda": "config.lambda_",
    "config.num_workers": "config.num_env_runners",
    "config.num_rollout_workers": "config.num_env_runners",
    "config.num_envs_per_worker": "config.num_envs_per_env_runner",
    "config.num_cpus_per_worker": "config.num_cpus_per_env_runner",
    "config.num_gpus_per_worker": "config.num_gpus_per_env_runner",
    "config.sample_batch_size": "config.rollout_fragment_length",
    "config.lr_schedule": "config.lr",
    "config.entropy_coeff_schedule": "config.entropy_coeff",
    "config.vf_share_layers": "config.model.vf_share_layers",
    "config.ignore_worker_failures": "config.restart_failed_env_runners",
    "config.recreate_failed_workers": "config.restart_failed_env_runners",
    "config.min_iter_time_s": "config.min_time_s_per_iteration",
    "config.min_time_s_per_reporting": "config.min_time_s_per_iteration",
    "config.timesteps_per_iteration": "config.min_sample_timesteps_per_iteration",
    "config.metrics_smoothing_episodes": "config.metrics_num_episodes_for_smoothing",
    "config.num_gpus": "config.num_gpus_per_learner",
    "config.env": "env",
    "config.learning_starts": "config.num_steps_sampled_before_learning_starts",
    "config.hiddens": "config.model.head_fcnet_hiddens",
    "config.replay_buffer_config.capacity": "config.buffer_size",
    "config.replay_buffer_config.alpha": "config.prioritized_replay_alpha",
    "config.replay_buffer_config.prioritized_replay_alpha": "config.prioritized_replay_alpha",
    "config.replay_buffer_config.beta": "config.prioritized_replay_beta",
    "config.replay_buffer_config.prioritized_replay_beta": "config.prioritized_replay_beta",
    "config.num_data_loader_buffers": "config.learner_queue_size",
    "config.model.post_fcnet_hiddens": "config.model.head_fcnet_hiddens",
    "config.model.post_fcnet_activation": "config.model.head_fcnet_activation",
}
# A tree of RLlib's, whose settings have names of their own here.
REPLAY_BUFFER = "config.replay_buffer_config"

# DQN's settings of exploration and their defaults, in Ray 0.8 to 1.6 and before.
_EPSILON_GREEDY = {"initial_epsilon": 1.0, "final_epsilon": 0.02, "epsilon_timesteps": 10_000, "warmup_timesteps": 0}
_EXPLORATION_OF_2019 = {"schedule_max_timesteps": 100_000, "exploration_fraction": 0.1, "exploration_final_eps": 0.02}

# Algorithm of RLlib 0.8 to 1.6 -> today's, and why.
ALGORITHMS_OF_2020: dict[str, tuple[str, str]] = {
    "APEX": ("DQN", "with prioritized replay; num_env_runners says how many processes sample"),
    "APEX_DDPG": ("SAC", "which took DDPG's place in RLlib"),
    "DDPG": ("SAC", "which took its place in RLlib"),
    "TD3": ("SAC", "which took its place in RLlib"),
    "SIMPLEQ": ("DQN", "which has all of it"),
    "A2C": ("PPO", "which is the same on-policy gradient, clipped, and learns more from each batch"),
    "A3C": ("PPO", "which is the same on-policy gradient, clipped, without stale workers"),
    "PG": ("PPO", "which is the same on-policy gradient, with a baseline and clipped"),
}
# Algorithm of RLlib that is not trained here -> what to use.
ALGORITHMS_GONE = {
    "ES": "an algorithm that RLlib still has: evolution strategies are gone; PPO trains the same environments",
    "ARS": "an algorithm that RLlib still has: random search is gone; PPO trains the same environments",
}

_EPSILON = "the schedule of exploration is rl.training.config.epsilon, as [[0, 1.0], [10000, 0.02]]"
# Old path -> why it means nothing today.
OBSOLETE: dict[str, str] = {
    "config.simple_optimizer": "RLlib has one way to optimize now",
    "config.straggler_mitigation": "RLlib dropped it",
    "config.synchronize_filters": "observation filters are always synchronized",
    "config.collect_metrics_timeout": "metrics come with the rollouts now",
    "config.compress_observations": "rollouts are not compressed",
    "config.sample_async": "RLlib dropped it",
    "config.shuffle_sequences": "shuffle_batch_per_epoch took its place",
    "config.preprocessor_pref": "connectors took the place of preprocessors",
    "config.clip_rewards": "scale rewards in the environment instead",
    "config.log_level": "RLlib is kept quiet below errors",
    "config.callbacks": "pass behavior by subclassing SageMakerRayLauncher",
    "config.multiagent": "one policy is trained for one agent",
    "config.tf_session_args": "there is no TensorFlow",
    "config.local_tf_session_args": "there is no TensorFlow",
    "config.eager": "there is no TensorFlow",
    "config.eager_tracing": "there is no TensorFlow",
    "config.optimizer": "PPO's own settings say it: lr, grad_clip",
    "config.input": "logged data is rl.training.data today, for an algorithm that learns from it",
    "config.input_evaluation": "learning from a log estimates each iteration's policy on held-out episodes",
    "config.moving_average_sqd_adv_norm_start": "advantages are divided by their running root mean square",
    "config.moving_average_sqd_adv_norm_update_rate": "advantages are divided by their running root mean square",
    "config.vf_coeff": "MARWIL's policy and value function have networks of their own",
    "config.bc_logstd_coeff": "continuous actions are imitated by their squared error, without a standard deviation",
    "config.postprocess_inputs": "logs hold transitions, as they were",
    "config.shuffle_buffer_size": "a log is learned from as a whole",
    "config.output_compress_columns": "logs are JSON that anybody reads",
    "config.output_max_file_size": "each environment has one file",
    "config.exploration_config": f"{_EPSILON}, of DQN; other algorithms sample the policy's distribution",
    "config.exploration_fraction": _EPSILON,
    "config.exploration_final_eps": _EPSILON,
    "config.schedule_max_timesteps": _EPSILON,
    "config.per_worker_exploration": _EPSILON,
    "config.noisy": "RLlib's DQN has no noisy layers any more; config.epsilon explores",
    "config.sigma0": "RLlib's DQN has no noisy layers any more; config.epsilon explores",
    "config.adam_epsilon": "it is PyTorch's own",
    "config.beta_annealing_fraction": "prioritized_replay_beta stays as it is set",
    "config.final_prioritized_replay_beta": "prioritized_replay_beta stays as it is set",
    "config.prioritized_replay_beta_annealing_timesteps": "prioritized_replay_beta stays as it is set",
    "config.prioritized_replay_eps": "RLlib has a number of its own",
    "config.use_exec_api": "RLlib has one API now",
    "config.use_pytorch": "policies are PyTorch's",
    "config.framework": "policies are PyTorch's",
    "config.evaluation_interval": "evaluation_episodes evaluates before each checkpoint, every checkpoint_freq "
    "iterations",
    "config.evaluation_num_episodes": "the evaluate job takes evaluate_episodes",
    "config.evaluation_config": "the evaluate job has its own settings",
    "config.remote_worker_envs": "gym_env_vectorize_mode took its place",
    "config.remote_env_batch_wait_ms": "gym_env_vectorize_mode took its place",
    "config.soft_horizon": "horizon cuts an episode, always",
    "config.no_done_at_end": "horizon cuts an episode without calling it a failure",
    "config.model.squash_to_range": "policies end in a scaling to the action space",
    "config.model.grayscale": "wrap the environment instead",
    "config.model.dim": "wrap the environment instead",
    "config.model.zero_mean": "observation_filter took its place",
    "config.model.framestack": "wrap the environment instead",
    "config.model.fcnet_stddev": "fcnet_kernel_initializer took its place",
    "config.model.custom_model": "the network is RLlib's own, by model.fcnet_hiddens and model.conv_filters; an entry "
    "action_mask of Dict observations masks the actions",
    "config.model.custom_model_config": "there is no custom model",
    "config.model.custom_options": "the network is RLlib's own, by model.fcnet_hiddens and model.conv_filters",
    "config.model.custom_preprocessor": "wrap the environment instead",
    "config.model.lstm_use_prev_action_reward": "the LSTM sees observations alone",
    "local_dir": "results have fixed places",
    "upload_dir": "SageMaker uploads results itself",
    "num_samples": "a job trains one policy; tuning is a job of its own",
    "max_failures": "SageMaker restarts jobs, and they resume from their checkpoint",
    "resume": "a job resumes from its checkpoint by itself",
    "keep_checkpoints_num": "the newest 3 are kept",
    "checkpoint_score_attr": "the newest 3 and the best are kept",
    "name": "the job's name is SageMaker's",
    "trial_resources": "settings for runners and learners took its place",
    "resources_per_trial": "settings for runners and learners took its place",
    "sync_function": "SageMaker synchronizes checkpoints itself",
    "loggers": "metrics go to stdout, metrics.jsonl and TensorBoard",
}

# Coach's presets by the names that notebooks ask for, without `preset-`.
PRESETS_OF_2020: dict[str, str] = {
    "cartpole-ddqnbcq": "cartpole-bcq",
    "cartpole-ddqnbcq-env": "cartpole-bcq",
}

# Settings that name data to read or write: a job must not ignore them.
_DATA = ("config.input",)

_MONITOR = Setting("bool", "Record videos.")


def translate(path: str, value: Any) -> tuple[str, Any, str] | None:
    """Translates an old path and value to today's, with a note of the change.

    Args:
        path: Path below rl.training.
        value: The value as it arrived.

    Returns:
        New path, new value, note; None when the name is not an old one.

    Raises:
        ValueError: The old setting's value is not of its type.
    """
    if path == "run":
        return _translate_algorithm(value)
    if path in RENAMED:
        new = RENAMED[path]
        return new, value, f"rl.training.{path} is called rl.training.{new} today"
    if path == f"{REPLAY_BUFFER}.type":
        has_priorities = "prioritized" in str(value).lower()
        note = f"rl.training.{path} is rl.training.config.prioritized_replay={str(has_priorities).lower()} today"
        return "config.prioritized_replay", has_priorities, note
    if path == "config.monitor":
        if coerce(value, _MONITOR):
            return "", None, "rl.training.config.monitor: videos are recorded by default (rl.training.video_freq)"
        return "video_freq", 0, "rl.training.config.monitor=false is rl.training.video_freq=0 today"
    return None


def _translate_algorithm(value: Any) -> tuple[str, Any, str] | None:
    name = str(value).strip('"').upper()
    if name in ALGORITHMS_GONE:
        raise ValueError(ALGORITHMS_GONE[name])
    if name not in ALGORITHMS_OF_2020:
        return None
    new, why = ALGORITHMS_OF_2020[name]
    return "run", new, f"rl.training.run={name} is {new} today, {why}"


def join_exploration(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Joins the settings of epsilon-greedy exploration, of a script of 2020, to today's `epsilon`.

    Args:
        config: What the script has below `rl.training.config`.

    Returns:
        The config, with `epsilon` in their place, and a line that says so; empty where there is nothing to join.

    Source: RLlib's DQN, of Ray 0.6 and of Ray 1.6, for the defaults.
    """
    described = config.get("exploration_config")
    if isinstance(described, Mapping) and "epsilon" in str(described.get("type", "")).lower():
        read = _EPSILON_GREEDY | dict(described)
        first, last, steps = read["initial_epsilon"], read["final_epsilon"], read["epsilon_timesteps"]
        warmup = read["warmup_timesteps"]
        names = ["exploration_config"]
    else:
        read = _EXPLORATION_OF_2019 | {name: config[name] for name in _EXPLORATION_OF_2019 if name in config}
        first, last, warmup = 1.0, read["exploration_final_eps"], 0
        steps = read["schedule_max_timesteps"] * read["exploration_fraction"]
        names = [name for name in _EXPLORATION_OF_2019 if name in config]
    if not names or "epsilon" in config:
        return dict(config), ""
    left = {name: value for name, value in config.items() if name not in names}
    epsilon = [[0, first], *([[warmup, first]] if warmup else []), [warmup + max(1, int(steps)), last]]
    return {**left, "epsilon": epsilon}, f"rl.training.config.{', '.join(names)}: rl.training.config.epsilon={epsilon}"


def is_harmless(path: str, value: Any) -> bool:
    """Whether an obsolete setting asks for today's only behavior, as `framework: torch` does."""
    return str(value).strip('"').lower() in {
        "config.framework": ("torch", "pytorch"),
        "config.use_pytorch": ("true", "1"),
        "config.input": ("sampler", "none", "null"),
    }.get(path, ())


def is_data(path: str) -> bool:
    """Whether an obsolete setting names data, so that a job must not ignore it."""
    return path in _DATA


def obsolete_reason(path: str) -> str | None:
    """Returns why an old setting has no effect today, or None if there was no such setting."""
    for old, reason in OBSOLETE.items():
        if path == old or path.startswith(old + "."):
            return reason
    return None
