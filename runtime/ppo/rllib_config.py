"""Builds RLlib's PPOConfig from a job's settings: env runners, learner, and number of processes."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import ray
import threadpoolctl
import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from runtime.cluster.machines import Machines
from runtime.environments.adapting import is_image
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.interfaces.family import EnvFamily
from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.own_module import load_module
from runtime.policies.ppo_module import PPOModule
from runtime.policies.rllib_filter import make_filter
from runtime.policies.spaces import Spaces
from runtime.ppo.compiled.compile_ahead import are_kernels_cached
from runtime.ppo.compiled.env_runner import FastRunner
from runtime.ppo.compiled.learner import NORMALIZE_REWARDS, THREADS, FastLearner
from runtime.ppo.compiled.sync_envs import count_env_bytes, is_compiled
from runtime.ppo.own_network import module_config, try_network
from runtime.ppo.settings import PPONetworkSettings, PPOSettings
from runtime.rllib.env_maker import EnvMaker
from runtime.rllib.env_runner import AgentsRunner, Runner
from runtime.rllib.episodes import EpisodeReports
from runtime.rllib.faults import PROBE_TIMEOUT_S, FaultTolerance
from runtime.rllib.images import fit_images
from runtime.rllib.resources import fit_processes, most_runners
from runtime.rllib.seeds import without_dynamo
from runtime.settings.schema import JobConfig

_ENV = "smrl"
# What the fast path overrides is RLlib's inside, and was tried with these.
_TESTED_RAY = ("2.60.0",)
# Settings that are ours, not PPOConfig's, or need more than an assignment.
_NOT_RLLIB = (
    *("num_env_runners", "observation_filter", "horizon", "train_batch_size", "seed", "env_config", "use_gae"),
    *(
        "training_horizon",
        "evaluation_episodes",
        "normalize_rewards",
        "vf_loss",
        "episodes_per_iteration",
        "epsilon_greedy",
        "epsilon_steps",
        "most_steps_per_iteration",
        "output",
    ),
)
_GAUSSIAN = ("free_log_std", "initial_log_std", "log_std_schedule", "use_sde", "sde_sample_freq")
_OWN_MODEL_SETTINGS = (
    *("initial_log_std", "log_std_schedule", "use_sde", "sde_sample_freq"),
    *("pixel_scale", "lidar", "action_mask"),
)
_POLICY_ACTIVATIONS = {"silu": "swish"}


class FaultTolerantPPO(FaultTolerance, PPO):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's PPO, which keeps training while Ray restarts env runners that died."""


class PPOBuilder:
    """Builds RLlib's PPO for the training loop."""

    def needs_ray(self, config: JobConfig, env: EnvSpec, machines: Machines) -> bool:
        """Whether a job has env runners or learners in processes of their own, which Ray starts."""
        return needs_ray(config, env, machines)

    def env_bytes(self, env: EnvSpec) -> float:
        """Memory of one environment in bytes, where it is known."""
        return count_env_bytes(env)

    def stored_bytes(self, config: JobConfig, spaces: Spaces) -> int:
        """Returns 4, of a float; there is no replay buffer."""
        return 4

    def patience_s(self, config: JobConfig) -> float:
        """Returns 0, as each iteration waits for its steps."""
        return 0.0

    def fit(
        self, config: JobConfig, family: EnvFamily, spaces: Spaces, machines: Machines
    ) -> tuple[JobConfig, list[str]]:
        """Fits settings to the environment's actions and to the machine."""
        about_images: list[str] = []
        own = PPOSettings.of(config).model
        if own.module is not None:
            config = _without_image_filter(config, spaces.observation)
        elif family.fallback_reason is None:
            config, about_images = fit_images(config, spaces.observation)
        fitted, notes = fit_to_resources(config, family, spaces.action, machines)
        if own.module is not None:
            try_network(own, spaces)
        return fitted, [*about_images, *notes]

    def compiles(self, config: JobConfig, family: EnvFamily) -> bool:
        """Whether the kernels have yet to be compiled for this processor."""
        return fallback_reason(config, family) is None and not are_kernels_cached()

    def build(self, config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines, *, steps: int) -> Any:
        """Builds the algorithm."""
        return build_algorithm(config, env, family, machines)

    def describe_path(self, algorithm: Any, config: JobConfig, family: EnvFamily) -> str:
        """Describes in one line how a job samples and learns."""
        return describe_path(algorithm, config, family)


def build_algorithm(config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines) -> PPO:
    """Builds RLlib's PPO, with Ray already running if `needs_ray`.

    Args:
        config: The job's settings, fit to the machine.
        env: The job's environment.
        family: Its family.
        machines: CPUs and GPUs for sampling and learning.
    """
    # One thread: networks are small, and a second thread waits for the first more than it helps
    # (measured at 0.16-0.30 ms with one thread, 24-116 ms with two on a busy machine).
    uses_all_cores = family.uses_all_cores and not count_env_runners(config, machines, env)
    torch.set_num_threads(machines.own_cpus if uses_all_cores else 1)
    if not uses_all_cores:
        threadpoolctl.threadpool_limits(1)
    rllib = rllib_config(config, env, family, machines)
    with without_dynamo():
        return rllib.build_algo()


def rllib_config(config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines) -> PPOConfig:
    """Builds the PPOConfig of a job."""
    settings = PPOSettings.of(config)
    given = settings.given()
    if settings.training_horizon is not None:
        env = dataclasses.replace(env, horizon=min(settings.training_horizon, env.horizon or settings.training_horizon))
    register_env(_ENV, EnvMaker(env, threads=count_threads(config, env, machines)))
    rllib = PPOConfig(algo_class=FaultTolerantPPO)
    rllib.environment(_ENV, env_config=dict(env.config), disable_env_checking=True)
    rllib.update_from_dict({name: value for name, value in given.items() if name not in _NOT_RLLIB})
    rllib.env_runners(env_runner_cls=Runner)
    rllib.env_runners(num_env_runners=count_env_runners(config, machines, env))
    if settings.observation_filter == "MeanStdFilter":
        rllib.env_runners(env_to_module_connector=make_filter)
    learners = max(1, settings.num_learners)
    rllib.training(train_batch_size_per_learner=max(1, settings.train_batch_size // learners))
    rllib.callbacks(EpisodeReports)
    rllib.fault_tolerance(env_runner_health_probe_timeout_s=PROBE_TIMEOUT_S)
    rllib.debugging(seed=settings.seed, log_level="ERROR", log_sys_usage=False)
    described = family.configure_ppo(rllib, config, env)
    if settings.model.module is not None:
        module_class, model = load_module(settings.model.module), module_config(settings.model)
    else:
        model = model_config(described)
        module_class = CameraLidarModule if model["lidar"] else PPOModule
    rllib.rl_module(rl_module_spec=RLModuleSpec(module_class=module_class, model_config=model))
    if fallback_reason(config, family) is None:
        rllib.env_runners(env_runner_cls=FastRunner)
        rllib.training(learner_class=FastLearner)
        threads = 1 if settings.num_learners else count_threads(config, env, machines)
        rllib.training(learner_config_dict={NORMALIZE_REWARDS: settings.normalize_rewards, THREADS: threads})
    return rllib


def fallback_reason(config: JobConfig, family: EnvFamily) -> str | None:
    """Why a job falls back to sampling and learning by RLlib's own code or the family's; None for the compiled path."""
    if family.fallback_reason is not None:
        return family.fallback_reason
    settings = PPOSettings.of(config)
    asked = {
        "rl.training.fast": not config.fast,
        "rl.training.config.model.module": settings.model.module is not None,
        "rl.training.config.use_critic": not settings.use_critic,
        "rl.training.config.gym_env_vectorize_mode": settings.gym_env_vectorize_mode != "sync",
        "rl.training.config.num_learners": settings.num_learners > 1,
        "rl.training.config.num_gpus_per_learner": settings.num_gpus_per_learner > 0,
        "rl.training.config.num_gpus_per_env_runner": settings.num_gpus_per_env_runner > 0,
        "rl.training.config.model.use_lstm": settings.model.use_lstm,
        "rl.training.config.grad_clip_by": settings.grad_clip_by != "global_norm",
    }
    for name, is_asked in asked.items():
        if is_asked:
            return name
    if ray.__version__ not in _TESTED_RAY:
        return f"ray {ray.__version__} is not one of the tested versions {', '.join(_TESTED_RAY)}"
    return None


def describe_path(algorithm: PPO, config: JobConfig, family: EnvFamily) -> str:
    """Describes in one line how a job samples and learns."""
    reason = fallback_reason(config, family)
    if reason is not None:
        sampling = _describe_code(algorithm.config.env_runner_cls)
        learning = _describe_code(algorithm.config.learner_class)
        both = f"sampling and learning by {sampling}"
        return f"{both if sampling == learning else f'sampling by {sampling}, learning by {learning}'}: {reason}"
    asked = algorithm.learner_group.foreach_learner(lambda learner: learner.how)
    gradients = next((one.get() for one in asked if one.ok), "the learner's own")
    return f"sampling on arrays, gradients {gradients}; rl.training.fast=false takes RLlib's own code"


def _describe_code(used: type) -> str:
    """Names the code of an env runner or learner: RLlib's (as our plain env runner's is), or one of our classes."""
    return (
        "RLlib's own code"
        if used in (Runner, AgentsRunner) or used.__module__.startswith("ray.")
        else f"smrl's {used.__name__}"
    )


def fit_to_resources(
    config: JobConfig, family: EnvFamily, action_space: gymnasium.Space[Any], machines: Machines
) -> tuple[JobConfig, list[str]]:
    """Fits settings to the environment's actions and to the machine.

    Returns:
        The config, and a note of each setting that was changed.

    Raises:
        UserError: The action space is not one that PPO learns, or more GPUs are asked for than there are.
    """
    if not isinstance(action_space, family.action_spaces):
        raise UserError(
            f"environment {config.env}: got the action space {action_space}; expected a Box, Discrete, "
            "MultiDiscrete or MultiBinary one, or a Dict or Tuple of Boxes or of the others. Wrap the environment."
        )
    if np.any(getattr(action_space, "start", 0)):
        raise UserError(
            f"environment {config.env}: got the action space {action_space}; expected one whose actions start at 0, as "
            "RLlib counts them. Wrap the environment."
        )
    settings = PPOSettings.of(config)
    changes: dict[str, Any] = {}
    notes: list[str] = []
    gaussian = settings.model.given()
    left_out = tuple(f"config.model.{name}" for name in _GAUSSIAN if gaussian.get(name))
    if isinstance(action_space, gymnasium.spaces.Box) or settings.model.module is not None:
        left_out = ()
    if named := [name for name in left_out if not config.is_default(name)]:
        notes.append(f"rl.training.{', '.join(named)} left out: actions are {action_space}, not a Box")
    fitted, about_processes = fit_processes(config, machines)
    notes += about_processes
    reason = fallback_reason(config, family)
    if settings.normalize_rewards and reason is not None:
        changes["config.normalize_rewards"] = False
        if not config.is_default("config.normalize_rewards"):
            notes.append(f"rl.training.config.normalize_rewards left out: learning by RLlib's own code ({reason})")
    schedule = "config.model.log_std_schedule"
    is_own = settings.model.module is not None  # whose settings are its own
    if settings.model.log_std_schedule is not None and reason is not None and schedule not in left_out and not is_own:
        left_out += (schedule,)
        notes.append(f"rl.training.{schedule} left out: learning by RLlib's own code ({reason})")
    return config.replace({**changes, **fitted}, without=left_out), notes


def _without_image_filter(config: JobConfig, observations: gymnasium.Space[Any]) -> JobConfig:
    """Leaves images as they are for a network of the user's own, unless the user or a preset set a filter."""
    path = "config.observation_filter"
    return config.replace({path: "NoFilter"}) if is_image(observations) and config.is_default(path) else config


def count_env_runners(config: JobConfig, machines: Machines, env: EnvSpec) -> int:
    """Counts remote env runners, one CPU each; none on a single host with two CPUs, or if threads do the sampling.

    With one remote runner, sampling and learning still take turns, and rollouts travel between processes besides.
    """
    settings = PPOSettings.of(config)
    most = most_runners(settings, machines)
    if settings.num_env_runners != "auto":
        return int(settings.num_env_runners)
    if machines.hosts > 1:
        return most
    return min(machines.cpus - 1, most) if machines.cpus > 2 and not is_compiled(env) else 0


def needs_ray(config: JobConfig, env: EnvSpec, machines: Machines) -> bool:
    """Whether a job has env runners or learners in processes of their own, which Ray starts."""
    settings = PPOSettings.of(config)
    return machines.hosts > 1 or settings.num_learners > 0 or count_env_runners(config, machines, env) > 0


def count_threads(config: JobConfig, env: EnvSpec, machines: Machines) -> int:
    """Threads that step compiled worlds in each runner."""
    runners = count_env_runners(config, machines, env)
    return machines.own_cpus if runners == 0 else max(1, machines.cpus // runners)


def model_config(settings: dict[str, Any]) -> dict[str, Any]:
    """RLlib's network description, with ours added.

    Args:
        settings: Those that are set, as PPONetworkSettings names them, and what a family adds.
    """
    settings = {name: value for name, value in settings.items() if name not in ("module", "module_config")}
    ours = {name: settings.pop(name, None) for name in _OWN_MODEL_SETTINGS}
    for name, value in settings.items():
        if name.endswith("_activation"):
            settings[name] = _POLICY_ACTIVATIONS.get(value, value)
    if ours["use_sde"]:
        settings["free_log_std"] = True
        ours["sde_sample_freq"] = ours["sde_sample_freq"] or PPONetworkSettings().sde_sample_freq
    described = dataclasses.asdict(DefaultModelConfig(**settings))
    return {**described, **ours}
